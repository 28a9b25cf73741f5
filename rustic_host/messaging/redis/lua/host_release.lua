-- Give the lease of a guild back, if it is still ours.
--
-- KEYS[1]  HASH  the lease, expiring: token, ended, ms
-- ARGV[1]  token
-- ARGV[2]  0, or how many ms those who stand by have to see that the guild was asked to end
--
-- Returns 1 if it was ours, else 0.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], 'ended', '1', 'ms', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
