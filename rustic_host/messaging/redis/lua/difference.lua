-- How many members each topic's store and its set of digests have, all as of one moment.
--
-- KEYS[1+2i]  ZSET  the documented store
-- KEYS[2+2i]  ZSET  digests of what is in the log
--
-- Returns two integers for each topic; -1 where a key is of another type. Writes nothing.
local sizes = {}
for i = 1, #KEYS do
  local size = redis.pcall('ZCARD', KEYS[i])
  sizes[i] = type(size) == 'number' and size or -1
end
return sizes
