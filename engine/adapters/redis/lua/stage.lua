-- Begin a staged commit of one stream: copy the keys that it writes much to where nobody reads. There they are changed by
-- several calls of commit.lua, and its last call, on the live keys, puts them in the place of those.
--
-- KEYS  1  live checkpoint (hash)     3  staged checkpoint
--       2  live version (string)      4  staged version
--       5  names of the staged keys (string), by which whoever comes next finds them
--       6… pairs: a live key, its copy; then staged keys that another commit left behind
-- ARGV  1, 2, 3  expected generation, next_offset, commit
--       4, 5, 6  those of the commit
--       7  the next_offset that the staged checkpoint has until the first part is made
--       8  the names
--       9… for each pair three: the kind of the live key, how many elements it has at least by now (as in commit.lua), and
--         the least score that the commit keeps, '0' for a key that is no sorted set
-- returns { 'staged', elements, elements … }: how many elements the copy of each pair has, '0' where nothing was copied,
--         because nothing stands there or the commit keeps nothing of it
--      or what commit.lua returns for a commit that it does not make
--
-- The live keys are checked here, and not where their copies are written: what is wrong with a copy is no fault of theirs.
-- The first write is one that Redis refuses when it is out of memory; behind another one it would let all of them pass.
-- All is copied by one call, so the copies are of the position that the commit expects. The staged checkpoint comes last,
-- and names this commit: no part of another one is made there, and none of this one when the copies are not all made.
-- In a stream that has no checkpoint there is nothing to copy.

local call, pcall = redis.call, redis.pcall

local UNPACK_MAX = 4000
local SIZE = { string = 'STRLEN', hash = 'HLEN', list = 'LLEN', zset = 'ZCARD' }
local VERSION_DIGITS_MAX = 18 -- what INCR takes
local PAIRS = (#ARGV - 8) / 3

local function failed(reply, key, kind)
  if reply.err:find('WRONGTYPE', 1, true) then
    return { 'unfit', key, 'is a ' .. call('TYPE', key).ok .. ', not a ' .. kind }
  end
  return reply
end

-- What stands there, as commit.lua looks at it.
local stored = pcall('HMGET', KEYS[1], 'generation', 'next_offset', 'commit', 'begun', 'made')
if stored.err then
  return failed(stored, KEYS[1], 'hash')
end
local generation, next_offset, commit, begun = stored[1] or '', stored[2] or '', stored[3] or '', stored[4]
local version = pcall('GET', KEYS[2])
if type(version) == 'table' then
  return failed(version, KEYS[2], 'string')
elseif version and not (version:find('^%d+$') and #version <= VERSION_DIGITS_MAX) then
  return { 'unfit', KEYS[2], 'is no whole number' }
elseif begun and version and begun ~= version then
  return { 'unfit', KEYS[2], 'is ' .. version .. ', but ' .. begun .. ' commits were begun: one broke off or ran twice' }
elseif stored[5] and version and stored[5] ~= version then
  return { 'unfit', KEYS[2], 'is ' .. version .. ', but the last commit made ' .. stored[5] .. ': one ran twice' }
end
if generation ~= ARGV[1] or next_offset ~= ARGV[2] or commit ~= ARGV[3] then
  if generation == ARGV[4] and next_offset == ARGV[5] and commit == ARGV[6] then
    return { 'duplicate', version or '0' }
  end
  return { 'conflict', generation, next_offset, commit }
end
local is_first = generation == ''
if not is_first and not version then
  return { 'unfit', KEYS[2], 'is missing' }
end
local reply = { 'staged' }
for pair = 0, PAIRS - 1 do
  reply[2 + pair] = '0'
end
for pair = 0, is_first and -1 or PAIRS - 1 do
  local live, kind, known = KEYS[6 + 2 * pair], ARGV[9 + 3 * pair], tonumber(ARGV[10 + 3 * pair])
  local size = pcall(SIZE[kind], live)
  if type(size) == 'table' then
    return failed(size, live, kind)
  elseif size < known then
    return { 'unfit', live, size == 0 and 'is missing' or 'has ' .. size .. ' elements, not ' .. known }
  end
  reply[2 + pair] = string.format('%.0f', size)
end

call('SET', KEYS[5], ARGV[8])
for index = 3, #KEYS, UNPACK_MAX do
  local some = {}
  for key = index, math.min(index + UNPACK_MAX - 1, #KEYS) do
    if key <= 4 or key > 5 + 2 * PAIRS or (key > 5 and key % 2 == 1) then
      some[#some + 1] = KEYS[key]
    end
  end
  if #some > 0 then
    call('UNLINK', unpack(some))
  end
end
if not is_first then
  for pair = 0, PAIRS - 1 do
    local live, least = KEYS[6 + 2 * pair], tonumber(ARGV[11 + 3 * pair])
    local newest = least > 0 and call('ZREVRANGE', live, '0', '0', 'WITHSCORES')[2]
    if newest and tonumber(newest) < least then
      reply[2 + pair] = '0'
    else
      call('COPY', live, KEYS[7 + 2 * pair])
    end
  end
end
call('SET', KEYS[4], version or '0')
if begun then
  call('HSET', KEYS[3], 'begun', begun)
end
call('HSET', KEYS[3], 'generation', ARGV[4], 'next_offset', ARGV[7], 'commit', ARGV[6])
return reply
