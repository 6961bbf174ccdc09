"""The Lua scripts of the event store on Redis: each runs as one atomic step of the server.

Keys, after the prefix: `meta`, a hash with format and store_id; `seq`, the last number given; `ids`, a hash of
event_id -> seq; `log`, a sorted set of the events as JSON by seq (a stream would keep the bytes of deleted entries);
`user:<id>` and `session:<id>`, lists of the seqs of their events; `logins:<session>`, a hash of user -> time of the
first event there in microseconds and its seq; `sessions:<user>`, a sorted set of the sessions where the user logged in
by the last seq of any event there.
"""

from __future__ import annotations

APPEND = """
local prefix, is_new = KEYS[1], {}
if redis.call('HGET', prefix .. 'meta', 'store_id') ~= ARGV[1] then return -1 end
if ARGV[2] == '' and redis.call('HEXISTS', prefix .. 'meta', 'restoring') == 1 then return -1 end
for i = 3, #ARGV, 6 do
  local id, user, session, time_us = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if redis.call('HEXISTS', prefix .. 'ids', id) == 1 then
    is_new[#is_new + 1] = 0
  else
    local seq = ARGV[i + 5]
    if seq == '' then seq = string.format('%.0f', redis.call('INCR', prefix .. 'seq')) end
    redis.call('HSET', prefix .. 'ids', id, seq)
    redis.call('ZADD', prefix .. 'log', seq, ARGV[i + 4])
    if user ~= '' then redis.call('RPUSH', prefix .. 'user:' .. user, seq) end
    if session ~= '' then
      local logins = prefix .. 'logins:' .. session
      redis.call('RPUSH', prefix .. 'session:' .. session, seq)
      if user ~= '' then
        local known = redis.call('HGET', logins, user)
        local known_us, first_seq = string.match(known or '', '(-?%d+) (%d+)')
        if not known then
          redis.call('HSET', logins, user, time_us .. ' ' .. seq)
        elseif tonumber(time_us) < tonumber(known_us) then
          redis.call('HSET', logins, user, time_us .. ' ' .. first_seq)
        end
      end
      for _, each in ipairs(redis.call('HKEYS', logins)) do
        redis.call('ZADD', prefix .. 'sessions:' .. each, seq, session)
      end
    end
    is_new[#is_new + 1] = 1
  end
end
-- A write even if all are known: WAITAOF and WAIT wait for the last write of this client, so for theirs too.
redis.call('HINCRBY', prefix .. 'meta', 'appends', 1)
return is_new
"""
"""Arguments: store_id, `restoring` or nothing, then for each event event_id, user_id, session_id, time_us, JSON, seq;
an absent one is empty, and an absent seq the next one. Returns whether each is new; -1 if it is another store now."""

_NEWEST = """
local prefix = KEYS[1]
local function newest(key, after, limit)
  local found, last = {}, -1
  while #found < limit do
    local seqs = redis.call('LRANGE', key, last - 99, last)
    for i = #seqs, 1, -1 do
      if tonumber(seqs[i]) <= after or #found >= limit then return found end
      local content = redis.call('ZRANGEBYSCORE', prefix .. 'log', seqs[i], seqs[i])[1]
      if content then found[#found + 1] = {seqs[i], content} end
    end
    if #seqs < 100 then return found end
    last = last - 100
  end
  return found
end
"""
"""The newest events of a list of seqs, which is in ascending order: pairs of seq and JSON."""

OF = (
    _NEWEST
    + """
local user, session, after, limit = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local store_id = redis.call('HGET', prefix .. 'meta', 'store_id')
if user == '' then return {newest(prefix .. 'session:' .. session, after, limit), {}, {}, store_id} end
local sessions = redis.call('ZRANGEBYSCORE', prefix .. 'sessions:' .. user, '(' .. ARGV[3], '+inf')
if session ~= '' then
  local last_seq = redis.call('ZSCORE', prefix .. 'sessions:' .. user, session)
  if not last_seq or tonumber(last_seq) <= after then sessions[#sessions + 1] = session end
end
local logins, events = {}, {}
for _, each in ipairs(sessions) do
  logins[#logins + 1] = {each, redis.call('HGETALL', prefix .. 'logins:' .. each)}
  for _, event in ipairs(newest(prefix .. 'session:' .. each, 0, limit)) do events[#events + 1] = event end
end
return {newest(prefix .. 'user:' .. user, after, limit), logins, events, store_id}
"""
)
"""Events of a user after a watermark, the logins of their sessions since then, and all events of these sessions."""

ERASE = """
local prefix, user = KEYS[1], ARGV[1]
local num_erased = 0
local function erase(seq, only_anonymous)
  local content = redis.call('ZRANGEBYSCORE', prefix .. 'log', seq, seq)[1]
  if not content then return false end
  local event = cjson.decode(content)
  if only_anonymous and event[2] ~= cjson.null then return false end
  redis.call('ZREM', prefix .. 'log', content)
  redis.call('HDEL', prefix .. 'ids', event[1])
  if event[3] ~= cjson.null then redis.call('LREM', prefix .. 'session:' .. event[3], 1, seq) end
  num_erased = num_erased + 1
  return true
end
for _, seq in ipairs(redis.call('LRANGE', prefix .. 'user:' .. user, 0, -1)) do erase(seq, false) end
redis.call('DEL', prefix .. 'user:' .. user)
for _, session in ipairs(redis.call('ZRANGE', prefix .. 'sessions:' .. user, 0, -1)) do
  local logins = prefix .. 'logins:' .. session
  redis.call('HDEL', logins, user)
  if redis.call('HLEN', logins) == 0 then
    for _, seq in ipairs(redis.call('LRANGE', prefix .. 'session:' .. session, 0, -1)) do erase(seq, true) end
  end
end
redis.call('DEL', prefix .. 'sessions:' .. user)
local session = ARGV[2]
if session ~= '' and redis.call('EXISTS', prefix .. 'logins:' .. session) == 0 then
  for _, seq in ipairs(redis.call('LRANGE', prefix .. 'session:' .. session, 0, -1)) do erase(seq, true) end
end
redis.call('HINCRBY', prefix .. 'meta', 'appends', 1)
return num_erased
"""
