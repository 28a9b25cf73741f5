-- Take what others stored on one topic into its log: each member once, however many bridges try.
--
-- KEYS[1]  HASH    exact counts, field -> integer
-- KEYS[2]  STREAM  log of the topic, in arrival order (field m = JSON)
-- KEYS[3]  ZSET    digests of what is in the log, score = timestamp ms
-- KEYS[4]  ZSET    the documented store, score = timestamp ms, member = JSON
-- ARGV[1]  count field 'published'   ARGV[2]  the same for late ones   ARGV[3]  count field 'imported'
-- ARGV[4]  Pub/Sub channel that tells readers without a group
-- ARGV[5+3i]  digest, JSON of a member, and the score under which it is not late, or ''; one that the store has not (any
--             more) is left out
--
-- Returns {1, members that were new}, or, with nothing done, {0, 'type', key} or {0, 'acl', command} (the user may not).
local function wrong_type(key, want)
  local kind = redis.call('TYPE', key).ok
  return kind ~= 'none' and kind ~= want
end

if wrong_type(KEYS[1], 'hash') then return {0, 'type', KEYS[1]} end
if wrong_type(KEYS[2], 'stream') then return {0, 'type', KEYS[2]} end
if wrong_type(KEYS[3], 'zset') then return {0, 'type', KEYS[3]} end
if wrong_type(KEYS[4], 'zset') then return {0, 'type', KEYS[4]} end

local function may_not(...)
  return redis.acl_check_cmd and not redis.acl_check_cmd(...)
end

if may_not('ZADD', KEYS[3], 'NX', 0, '') then return {0, 'acl', 'ZADD'} end
if may_not('XADD', KEYS[2], '*', 'm', '') then return {0, 'acl', 'XADD'} end
if may_not('HINCRBY', KEYS[1], 'n', 1) then return {0, 'acl', 'HINCRBY'} end

local new, late = 0, 0
for i = 5, #ARGV, 3 do
  local digest, json = ARGV[i], ARGV[i + 1]
  local score = redis.call('ZSCORE', KEYS[4], json)
  if score and redis.call('ZADD', KEYS[3], 'NX', score, digest) == 1 then
    redis.call('XADD', KEYS[2], '*', 'm', json)
    new = new + 1
    if tonumber(score) ~= tonumber(ARGV[i + 2]) then late = late + 1 end
  end
end
if new > 0 then
  if new > late then redis.call('HINCRBY', KEYS[1], ARGV[1], new - late) end
  if late > 0 then redis.call('HINCRBY', KEYS[1], ARGV[2], late) end
  redis.call('HINCRBY', KEYS[1], ARGV[3], new)
  redis.pcall('PUBLISH', ARGV[4], '')
end
return {1, new}
