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
--       9… for each pair the least score that the commit keeps, '0' for a key that is no sorted set
-- returns { 'staged', pair, pair … }: the numbers of those pairs, from 0, of which nothing was copied, because the commit
--         keeps nothing of what stands there
--      or what commit.lua returns for a commit that it does not make
--
-- All is copied by one call, so the copies are of the position that the commit expects. The staged checkpoint comes last,
-- and names this commit: no part of another one is made there, and none of this one when the copies are not all made.
-- In a stream that has no checkpoint there is nothing to copy.

local call, pcall = redis.call, redis.pcall

local UNPACK_MAX = 4000
local PAIRS = #ARGV - 8

local stored = pcall('HMGET', KEYS[1], 'generation', 'next_offset', 'commit', 'begun')
local version = pcall('GET', KEYS[2])
for index, reply in ipairs({ stored, version or nil }) do
  if type(reply) == 'table' and reply.err then
    if reply.err:find('WRONGTYPE', 1, true) then
      return { 'unfit', KEYS[index], 'has another type' }
    end
    return reply
  end
end
local generation, next_offset, commit = stored[1] or '', stored[2] or '', stored[3] or ''
if generation ~= ARGV[1] or next_offset ~= ARGV[2] or commit ~= ARGV[3] then
  if generation == ARGV[4] and next_offset == ARGV[5] and commit == ARGV[6] then
    return { 'duplicate', version or '0' }
  end
  return { 'conflict', generation, next_offset, commit }
end

for index = 3, #KEYS, UNPACK_MAX do
  local some = {}
  for key = index, math.min(index + UNPACK_MAX - 1, #KEYS) do
    if key <= 5 or key > 5 + 2 * PAIRS or key % 2 == 1 then
      some[#some + 1] = KEYS[key]
    end
  end
  if #some > 0 then
    call('UNLINK', unpack(some))
  end
end
call('SET', KEYS[5], ARGV[8])
local reply = { 'staged' }
if generation ~= '' then
  for pair = 0, PAIRS - 1 do
    local live, least = KEYS[6 + 2 * pair], tonumber(ARGV[9 + pair])
    local newest = least > 0 and call('TYPE', live).ok == 'zset' and call('ZREVRANGE', live, '0', '0', 'WITHSCORES')[2]
    if newest and tonumber(newest) < least then
      reply[#reply + 1] = pair
    else
      call('COPY', live, KEYS[7 + 2 * pair])
    end
  end
end
call('SET', KEYS[4], version or '0')
if stored[4] then
  call('HSET', KEYS[3], 'begun', stored[4])
end
call('HSET', KEYS[3], 'generation', ARGV[4], 'next_offset', ARGV[7], 'commit', ARGV[6])
return reply
