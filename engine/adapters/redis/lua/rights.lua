-- Try every command that the other scripts call, and those of a start and of reports, so that a user who lacks one learns
-- it before half a commit is made: Redis asks for rights call by call, also inside a script.
--
-- KEYS  1, 2  two keys of the probe's own, which need not share a prefix; neither is there afterwards
--       3     checkpoint (hash)
--       4     version (string)
-- ARGV  1     channel of updates, on which the update that stands is told again; one of version 0 when there is none
-- returns { 'granted' }
--      or { 'refused', command, key or channel, what Redis said }

local first, second, channel = KEYS[1], KEYS[2], ARGV[1]

local version, standing = redis.pcall('GET', KEYS[4]), redis.pcall('HMGET', KEYS[3], 'total_games', 'newest')
local update = '{"version":0,"total_games":0,"newest":null}'
if type(version) == 'string' and standing[1] and standing[2] then
  local newest = standing[2] ~= '' and standing[2] or 'null'
  update = '{"version":' .. version .. ',"total_games":' .. standing[1] .. ',"newest":' .. newest .. '}'
end

local tried = {
  { 'UNLINK', first },
  { 'UNLINK', second },
  { 'SET', first, '0' },
  { 'INCR', first },
  { 'GET', first },
  { 'STRLEN', first },
  { 'TYPE', first },
  { 'COPY', first, second },
  { 'RENAME', first, second },
  { 'EXISTS', second },
  { 'UNLINK', second },
  { 'HSET', first, 'field', '1' },
  { 'HINCRBY', first, 'field', '1' },
  { 'HGET', first, 'field' },
  { 'HMGET', first, 'field' },
  { 'HGETALL', first },
  { 'HLEN', first },
  { 'HDEL', first, 'field' },
  { 'LPUSH', first, 'element' },
  { 'LSET', first, '0', 'element' },
  { 'LLEN', first },
  { 'LTRIM', first, '1', '0' },
  { 'ZADD', first, '1', 'member' },
  { 'ZREVRANGE', first, '0', '0' },
  { 'ZRANGE', first, '0', '-1' },
  { 'ZCARD', first },
  { 'ZREMRANGEBYSCORE', first, '-inf', '+inf' },
  { 'SADD', first, 'member' },
  { 'SMEMBERS', first },
  { 'SREM', first, 'member' },
  { 'PUBLISH', channel, update },
}

for _, command in ipairs(tried) do
  local reply = redis.pcall(unpack(command))
  if type(reply) == 'table' and reply.err then
    redis.pcall('UNLINK', first)
    redis.pcall('UNLINK', second)
    return { 'refused', command[1], command[2], reply.err }
  end
end
return { 'granted' }
