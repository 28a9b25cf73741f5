-- Lease a guild to a host, renew that lease, or say who has it. Time is the server's: the key expires.
--
-- KEYS[1]  HASH  the lease, expiring: token, host, pid, place of its holder; ended = 1 when the guild was asked to end
-- ARGV[1]  token   ARGV[2]  lease time in ms
-- ARGV[3]  token of a holder that is known to be dead, or ''
-- ARGV[4]  1 if the lease of a guild that has ended may be taken, else 0
-- ARGV[5]  host   ARGV[6]  pid   ARGV[7]  place
--
-- Returns {1}, or {0, token, host, pid, place, ms left, ended or ''}.
local holder = redis.call('HGET', KEYS[1], 'token')
if holder == ARGV[1] then -- this alone, which also a server out of memory does
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {1}
end
if holder and holder ~= ARGV[3] then
  local kept = redis.call('HMGET', KEYS[1], 'host', 'pid', 'place', 'ended')
  if not (kept[4] and ARGV[4] == '1') then
    local left, most = redis.call('PTTL', KEYS[1]), tonumber(redis.call('HGET', KEYS[1], 'ms') or ARGV[2])
    if left < 0 or left > most then -- the clock was set back, or a torn file kept half of this script
      left = most
      redis.call('PEXPIRE', KEYS[1], most)
    end
    return {0, holder, kept[1] or '', kept[2] or '', kept[3] or '', left, kept[4] or ''}
  end
end
redis.call('HDEL', KEYS[1], 'ended') -- not DEL: a server whose slot moves away would refuse the key from there on
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'host', ARGV[5], 'pid', ARGV[6], 'place', ARGV[7], 'ms', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {1}
