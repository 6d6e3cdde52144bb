-- One request of one client, if its rate allows it: a bucket of a minute's requests that fills steadily.
--
-- KEYS[1]  when the client's bucket is full again, in microseconds of the server's clock (GCRA's arrival time)
-- ARGV[1]  requests per minute
-- Returns  0, or after how many microseconds the client may ask
--
-- Numbers stay below 2^53 until the year 2255. The key ends when the bucket is full: then it says nothing.
local minute = 60000000
local each = minute / tonumber(ARGV[1])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local full = math.max(tonumber(redis.call('GET', KEYS[1]) or '') or 0, now)
if full > now + minute then full = now + minute end  -- the limit was another, or the clock went back
local wait = full + each - now - minute
if wait > 0 then return math.ceil(wait) end
full = full + each
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', string.format('%.0f', math.ceil((full - now) / 1000)))
return 0
