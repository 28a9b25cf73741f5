-- Move the ends of leases of id slots: renew them, or give them back (now). A slot whose lease ends later than its holder
-- knows was leased to somebody else after it had expired, and is left alone.
--
-- KEYS[1]  ZSET  slot -> server time in ms until which it is taken
-- ARGV[1]  lease time in ms from now; 0 gives back
-- then pairs: slot, server time in ms until which its holder knows to have it
--
-- Returns {server time until which they are leased now, slots that are somebody else's...}.
local now = redis.call('TIME')
local until_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000) + tonumber(ARGV[1])
local reply = {until_ms}
-- A write that needs no memory comes first: then a server that has none left lets the others through (A8).
redis.call('ZREM', KEYS[1], '')
for i = 2, #ARGV, 2 do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if score and tonumber(score) > tonumber(ARGV[i + 1]) then
    reply[#reply + 1] = tonumber(ARGV[i])
  else
    redis.call('ZADD', KEYS[1], until_ms, ARGV[i])
  end
end
return reply
