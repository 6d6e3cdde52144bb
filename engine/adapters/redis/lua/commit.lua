-- One commit of one stream: if its checkpoint stands where the commit expects it, every write of a delta, the
-- checkpoint, the version and the update; else nothing.
--
-- KEYS  1  checkpoint (hash)
--       2  version (string)
--       3… the keys to write, each once
--       Then, when the biggest writes were made beside the live keys before (see stage.lua): the staged checkpoint, the
--       staged version, the names of the staged keys, and the staged keys
-- ARGV  1  expected generation, '' for: there is no checkpoint
--       2  expected next_offset, '' likewise
--       3  expected commit, '' likewise, and in a state that was stored before commits had an id
--       4  new generation
--       5  new next_offset
--       6  new commit
--       7  channel of updates
--       8  what follows the version in the update's JSON; '' for a part of a bigger commit, which is no version of its own
--       9  msgpack: { checkpoint fields to set, checkpoint fields to delete, places, writes }
--          Fields to set are { name, value, name, value … }. The writes stand one after the other in one flat array, which
--          unpacks twice as fast as an array of arrays; what is written to several keys stands there once, and `places`
--          says for each key where. Each is its kind, two parameters, how many elements the key has at least by now
--          (`known`; 1 for a string), how many values follow, and these:
--            'string'  0                          0     known  1   value
--            'hash'    how many fields to delete  0     known  n   name, value … and then the fields to delete
--            'list'    how many newest to drop    keep  known  n   elements to push, oldest first; `keep` remain at most
--            'zset'    least score to keep, '0'   0     known  n   score, member, score, member …
--            'remove'  0                          0     0      0
--            'take'    which of KEYS is staged    kind  known  0
--          A staged key has `known` elements at least; it takes the place of the live one.
-- returns { 'applied', version } or { 'duplicate', version }: the commit had been made, its reply was lost
--      or { 'conflict', generation, next_offset, commit } as stored, all '' when there is no checkpoint
--      or { 'unfit', key, what is wrong with it }
--      or { 'unstaged' }: the staged keys are not those of this commit, or not all there
--
-- Lua has no rollback, so all that can fail is checked before the first write; and the first write is one that Redis
-- refuses when it is out of memory, read-only or without replicas, before anything has changed. Offsets are compared as
-- strings, since a Lua number is a double.
--
-- What goes wrong between the writes all the same must show. The first one raises the checkpoint's field `begun`, the
-- last one raises the version (a part of a bigger commit takes `begun` back instead), each by one; so the two are equal
-- unless a commit broke off (a right was taken away, the server was killed inside a script) or ran twice. A server may
-- do the latter: redis-server 7.0 truncates an append-only file that ends inside a transaction but leaves that open, so
-- that the next restart runs the beginning of the lost commit and then the commit that was made in its stead. For that
-- to show, both must be relative writes.
-- Where nothing but the end of the transaction was lost, the whole lost commit runs, and the two agree. So the field
-- `made` has the version that a commit came to when it was made; it is an absolute write.

local call, pcall = redis.call, redis.pcall

local UNPACK_MAX = 4000
local LSET_MAX = 8
local VERSION_DIGITS_MAX = 18 -- what INCR takes
local SIZE = { string = 'STRLEN', hash = 'HLEN', list = 'LLEN', zset = 'ZCARD' }

-- command key values[first] … values[last], in as few calls as the stack allows.
local function in_chunks(command, key, values, first, last)
  while first <= last do
    local stop = math.min(first + UNPACK_MAX - 1, last)
    call(command, key, unpack(values, first, stop))
    first = stop + 1
  end
end

-- Each write: key, elements found, two parameters, all values, the first of this write's, the last.

local function write_hash(key, _, gone, _, values, first, last)
  in_chunks('HSET', key, values, first, last - gone)
  in_chunks('HDEL', key, values, last - gone + 1, last)
end

local last_index = {} -- as text, by how many elements are kept: printing a number costs as much as a call

local function write_list(key, size, drop, keep, values, first, last)
  local pushed = last - first + 1
  if drop > size then
    drop = size
  end
  local remain, is_cut_behind = size - drop + pushed, false
  if drop <= pushed and drop <= LSET_MAX then -- mostly the open series, in its own place
    for index = drop - 1, 0, -1 do
      call('LSET', key, index == 0 and '0' or tostring(index), values[first])
      first = first + 1
    end
  elseif drop == size and pushed > 0 then
    -- Never empty in between: while a cluster moves the slot away, a key that is gone cannot be made again.
    is_cut_behind = true
  else
    call('LTRIM', key, drop, '-1')
  end
  in_chunks('LPUSH', key, values, first, last)
  if is_cut_behind or remain > keep then
    remain = math.min(remain, keep)
    if remain > 0 then
      last_index[remain] = last_index[remain] or tostring(remain - 1)
      call('LTRIM', key, '0', last_index[remain])
    else
      call('UNLINK', key)
    end
  end
end

local function write_zset(key, size, least, _, values, first, last)
  if size > 0 and first < last then
    local newest = tonumber(call('ZREVRANGE', key, '0', '0', 'WITHSCORES')[2])
    for index = first, last, 2 do -- a score has one member: the one that stood there goes
      if tonumber(values[index]) <= newest then
        call('ZREMRANGEBYSCORE', key, values[index], values[index])
      end
    end
  end
  in_chunks('ZADD', key, values, first, last)
  if least ~= '0' then
    call('ZREMRANGEBYSCORE', key, '-inf', '(' .. least)
  end
end

-- The answer to a read that failed: the key is of another type, or whatever else Redis says.
local function failed(reply, key, kind)
  if reply.err:find('WRONGTYPE', 1, true) then
    return { 'unfit', key, 'is a ' .. call('TYPE', key).ok .. ', not a ' .. kind }
  end
  return reply
end

-- What stands there.
local stored = pcall('HMGET', KEYS[1], 'generation', 'next_offset', 'commit', 'begun', 'keys_created', 'made')
if stored.err then
  return failed(stored, KEYS[1], 'hash')
end
local generation, next_offset, commit = stored[1] or '', stored[2] or '', stored[3] or ''
local version = pcall('GET', KEYS[2])
if type(version) == 'table' then
  return failed(version, KEYS[2], 'string')
elseif version and not (version:find('^%d+$') and #version <= VERSION_DIGITS_MAX) then
  return { 'unfit', KEYS[2], 'is no whole number' }
end
local begun = stored[4]
if begun and version and begun ~= version then
  return { 'unfit', KEYS[2], 'is ' .. version .. ', but ' .. begun .. ' commits were begun: one broke off or ran twice' }
end
if stored[6] and version and stored[6] ~= version then
  return { 'unfit', KEYS[2], 'is ' .. version .. ', but the last commit made ' .. stored[6] .. ': one ran twice' }
end

if generation ~= ARGV[1] or next_offset ~= ARGV[2] or commit ~= ARGV[3] then
  if generation == ARGV[4] and next_offset == ARGV[5] and commit == ARGV[6] then -- parts of one commit share its id
    return { 'duplicate', version or '0' }
  end
  return { 'conflict', generation, next_offset, commit }
end

-- What could fail.
local is_first = generation == ''
if is_first and call('EXISTS', KEYS[1]) == 1 then
  return { 'unfit', KEYS[1], 'is no checkpoint' }
end
if not is_first and not version then
  return { 'unfit', KEYS[2], 'is missing' }
end
local packed = cmsgpack.unpack(ARGV[9])
local fields, gone, places, writes = packed[1], packed[2], packed[3], packed[4]
local sizes, created, last = {}, 0, #places + 2
if #KEYS > last then
  local staged = pcall('HMGET', KEYS[last + 1], 'generation', 'next_offset', 'commit')
  if staged.err or staged[1] ~= ARGV[4] or staged[2] ~= ARGV[5] or staged[3] ~= ARGV[6] then
    return { 'unstaged' }
  end
end
for index = 3, last do
  local at, size = places[index - 2], 0
  local kind = writes[at]
  if kind == 'take' then
    local staged = KEYS[writes[at + 1]]
    local found = pcall(SIZE[writes[at + 2]], staged)
    if type(found) == 'table' or found < writes[at + 3] then
      return { 'unstaged' }
    end
    size = call('EXISTS', staged)
    if is_first and call('EXISTS', KEYS[index]) == 1 then
      return { 'unfit', KEYS[index], 'stands there without a checkpoint' }
    elseif call('EXISTS', KEYS[index]) == 0 then
      created = created + 1
    end
  elseif kind ~= 'remove' then
    size = pcall(SIZE[kind], KEYS[index])
    if size ~= writes[at + 3] or size == 0 or is_first then -- else it is as it should be, like nearly all
      if type(size) == 'table' then
        return failed(size, KEYS[index], kind)
      elseif is_first and size > 0 then
        return { 'unfit', KEYS[index], 'stands there without a checkpoint' }
      elseif size < writes[at + 3] then
        return { 'unfit', KEYS[index], size == 0 and 'is missing' or 'has ' .. size .. ' elements, not ' .. writes[at + 3] }
      elseif size == 0 then
        created = created + 1
      end
    end
  end
  sizes[index] = size
end

-- What is written.
if created > 0 or is_first then
  -- Lets a reader that has listed the keys of the stream know whether there are more of them now.
  fields[#fields + 1] = 'keys_created'
  fields[#fields + 1] = string.format('%.0f', tonumber(stored[5] or 0) + created)
end
if not begun and version then -- stored before there was such a field, or the checkpoint is gone
  local first = pcall('HSET', KEYS[1], 'begun', version)
  if type(first) == 'table' then
    return first
  end
end
local first = pcall('HINCRBY', KEYS[1], 'begun', '1')
if type(first) == 'table' then
  return first
end
in_chunks('HSET', KEYS[1], fields, 1, #fields)
in_chunks('HDEL', KEYS[1], gone, 1, #gone)
for index = 3, last do
  local at, key = places[index - 2], KEYS[index]
  local kind, from, to = writes[at], at + 5, at + 4 + writes[at + 4]
  if kind == 'hash' then
    if writes[at + 1] == 0 and from < to and to - from < UNPACK_MAX then
      call('HSET', key, unpack(writes, from, to))
    else
      write_hash(key, sizes[index], writes[at + 1], writes[at + 2], writes, from, to)
    end
  elseif kind == 'list' then
    write_list(key, sizes[index], writes[at + 1], writes[at + 2], writes, from, to)
  elseif kind == 'string' then
    call('SET', key, writes[from])
  elseif kind == 'zset' then
    write_zset(key, sizes[index], writes[at + 1], writes[at + 2], writes, from, to)
  elseif kind == 'take' and sizes[index] == 1 then
    -- Not removed first: while a cluster moves the slot away, a key that is gone cannot be made again.
    call('RENAME', KEYS[writes[at + 1]], key)
  else
    call('UNLINK', key)
  end
end
if #KEYS > last then
  call('UNLINK', KEYS[last + 1], KEYS[last + 2], KEYS[last + 3])
end

if ARGV[8] == '' then
  if not version then
    call('SET', KEYS[2], '0')
  end
  call('HINCRBY', KEYS[1], 'begun', '-1')
  return { 'applied', version or '0' }
end
local raised = call('INCR', KEYS[2])
version = raised < 2 ^ 53 and string.format('%.0f', raised) or call('GET', KEYS[2]) -- the number is a double
call('HSET', KEYS[1], 'made', version)
pcall('PUBLISH', ARGV[7], '{"version":' .. version .. ARGV[8])
return { 'applied', version }
