-- Look through a page of a log for the first entry that is not surely older than a moment.
--
-- KEYS[1]  STREAM  the log
-- KEYS[2]  ZSET    the documented store, score = timestamp ms, member = JSON
-- ARGV[1]  where the page begins, as XRANGE has it   ARGV[2]  entries in it   ARGV[3]  the moment, Unix ms
--
-- Returns {entries before it, id of the last of these or '', its own id or ''}; one that is not in the store counts as
-- not older. Writes nothing.
local entries = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
local moment, last = tonumber(ARGV[3]), ''
for i, entry in ipairs(entries) do
  local score = redis.call('ZSCORE', KEYS[2], entry[2][2])
  if not score or tonumber(score) >= moment then return {i - 1, last, entry[1]} end
  last = entry[1]
end
return {#entries, last, ''}
