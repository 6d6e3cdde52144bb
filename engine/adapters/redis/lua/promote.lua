-- Put the shadow generation of a stream in the place of the live one, at once for every reader.
--
-- KEYS  1  live checkpoint       3  shadow checkpoint
--       2  live version          4  shadow version
--       5… pairs: a key of the shadow, the live key it becomes; then the live keys that are left over
-- ARGV  1  how many pairs
--       2  shadow generation   3  its next_offset   4  its commit   5  its keys_created   before the keys were listed
--       6  live generation     7  its keys_created   likewise, both '' when there was none
--       8  '1': even if the live state is ahead
--       9  channel of updates
-- returns { 'promoted', version }
--      or { 'behind', generation, next_offset, commit } of the live state, which is ahead
--      or { 'moved' }: the lists of keys may be out of date, list them again
--      or { 'unfit', key, what is wrong with it } of the shadow
--
-- Every commit that creates a key raises `keys_created` in the checkpoint. So an engine may go on committing between the
-- listing and this call: only when it created a key, or another generation came, are the lists out of date. All is
-- checked before the first write; a missing key would stop RENAME half-way.
--
-- The live state is what is to be mended, so nothing in it need be sane: keys may be missing, of other types, or hold
-- anything. The version becomes the larger of both + 1; of a live version that cannot be read, `begun` in the checkpoint
-- is a copy (see commit.lua). Here too one of the first writes is relative, so that it shows when this runs twice.

local call, pcall = redis.call, redis.pcall

local UNPACK_MAX = 4000

-- Whether decimal string a is greater than b; neither has leading zeros.
local function is_greater(a, b)
  if #a ~= #b then
    return #a > #b
  end
  return a > b
end

local function is_number(text)
  return text and text:find('^%d+$') and #text <= 18
end

local shadow =
  call('HMGET', KEYS[3], 'generation', 'next_offset', 'commit', 'keys_created', 'total_games', 'newest', 'begun', 'made')
local live = pcall('HMGET', KEYS[1], 'generation', 'next_offset', 'commit', 'keys_created', 'begun')
local live_version = pcall('GET', KEYS[2])
for _, reply in ipairs({ live, live_version or nil }) do
  if type(reply) == 'table' and reply.err and not reply.err:find('WRONGTYPE', 1, true) then
    return reply
  end
end
live = live.err and {} or live
live_version = type(live_version) == 'string' and live_version or ''
for field = 1, 4 do
  if (shadow[field] or '') ~= ARGV[field + 1] then
    return { 'moved' }
  end
end
if live[1] and ARGV[8] ~= '1' and live[2] and live[2]:find('^%d+$') and is_greater(live[2], shadow[2]) then
  return { 'behind', live[1], live[2], live[3] or '' }
end
if (live[1] or '') ~= ARGV[6] or (live[4] or '') ~= ARGV[7] then
  return { 'moved' }
end
local begun = call('GET', KEYS[4])
if not is_number(begun) or begun ~= shadow[7] or begun ~= (shadow[8] or begun) then
  return { 'unfit', KEYS[4], 'is not what the checkpoint beside it says' }
end
local version = begun
for _, one in ipairs({ live_version, live[5] or '' }) do
  one = one:gsub('^0+', '')
  if is_number(one) and is_greater(one, version) then
    version = one
  end
end
local pairs_end = 4 + 2 * tonumber(ARGV[1])
for index = 5, pairs_end, 2 do
  if call('EXISTS', KEYS[index]) == 0 then
    return { 'moved' }
  end
end

-- The first write shows whether Redis accepts any; this one it does when it is out of memory, of which promote needs none.
-- UNLINK before RENAME, so that big values are freed elsewhere.
local first = pcall('UNLINK', KEYS[1])
if type(first) == 'table' then
  return first
end
-- `begun` becomes the new version, relatively.
call('HINCRBY', KEYS[3], 'begun', version)
call('HINCRBY', KEYS[3], 'begun', '-' .. begun)
call('HINCRBY', KEYS[3], 'begun', 1)
version = call('HGET', KEYS[3], 'begun')
call('HSET', KEYS[3], 'made', version)

for index = pairs_end + 1, #KEYS, UNPACK_MAX do
  call('UNLINK', unpack(KEYS, index, math.min(index + UNPACK_MAX - 1, #KEYS)))
end
for index = 5, pairs_end, 2 do
  call('UNLINK', KEYS[index + 1])
  call('RENAME', KEYS[index], KEYS[index + 1])
end
call('RENAME', KEYS[3], KEYS[1])
call('UNLINK', KEYS[4])
call('SET', KEYS[2], version)
local newest = shadow[6] ~= '' and shadow[6] or 'null'
local update = '{"version":' .. version .. ',"total_games":' .. shadow[5] .. ',"newest":' .. newest .. '}'
pcall('PUBLISH', ARGV[9], update)
return { 'promoted', version }
