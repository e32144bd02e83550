"""What runs in the Redis, each script as a whole: nobody sees it half done, and no other command comes between.

Knows keys and their values. Does not know what bodies hold.

    mediround:sessions          hash: schema, seal (a proof of the key), bytes (of all sessions)
    mediround:opened            sorted set: NAME OWNER ACCOUNT, by when the session was opened
    mediround:owner:OWNER       sorted set: NAME, by the moment that its caller is told, for lists
    mediround:account:ACCOUNT   hash: bytes by NAME, and of all together (``all``)
    mediround:session:NAME      hash: version, rounds, opened, account, token, order; header; bodies (r, q, m)
    mediround:image:NAME        the image, where it is kept
    mediround:ended:NAME        ``closed`` or ``old``, for a lifetime

Names are 64 hexadecimal digits. Sessions and images have a time to live, too, past their lifetime: they end also
where no server is left that deletes them.
"""

from __future__ import annotations

PREFIX = "mediround:"
ROOT = PREFIX + "sessions"
NAME_DIGITS = 64

_COMMON = f"""
local P = '{PREFIX}'
local function drop(name, owner, account)
    redis.call('DEL', P .. 'session:' .. name, P .. 'image:' .. name)
    redis.call('ZREM', P .. 'opened', name .. owner .. account)
    redis.call('ZREM', P .. 'owner:' .. owner, name)
    local held = redis.call('HGET', P .. 'account:' .. account, name)
    if held then
        redis.call('HDEL', P .. 'account:' .. account, name)
        redis.call('HINCRBY', P .. 'account:' .. account, 'all', -held)
        redis.call('HINCRBY', P .. 'sessions', 'bytes', -held)
    end
    if redis.call('HLEN', P .. 'account:' .. account) <= 1 then
        redis.call('DEL', P .. 'account:' .. account)
    end
end
local function room(account, grown, most, most_of_caller)
    if grown <= 0 then return nil end
    local own = tonumber(redis.call('HGET', P .. 'account:' .. account, 'all') or 0)
    if own + grown > tonumber(most_of_caller) then return 'callers full' end
    local all = tonumber(redis.call('HGET', P .. 'sessions', 'bytes') or 0)
    if all + grown > tonumber(most) then return 'full' end
end
local function grow(name, account, grown)
    redis.call('HINCRBY', P .. 'account:' .. account, name, grown)
    redis.call('HINCRBY', P .. 'account:' .. account, 'all', grown)
    redis.call('HINCRBY', P .. 'sessions', 'bytes', grown)
end
"""

OPEN = f"""
local found = redis.call('HMGET', '{ROOT}', 'schema', 'seal')
if found[1] then return found end
if redis.call('DBSIZE') > 0 then return {{'', ''}} end
redis.call('HSET', '{ROOT}', 'schema', ARGV[1], 'seal', ARGV[2], 'bytes', 0)
return {{ARGV[1], ARGV[2]}}
"""
"""Schema, seal. Takes an empty database. Returns what there is, nothing where it is another program's."""

PUT = (
    _COMMON
    + """
local name, owner, account, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local opened, told, seconds, image = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local session = P .. 'session:' .. name
local there = redis.call('HGET', session, 'token')
if there == token then return 'done' end
if there or redis.call('EXISTS', P .. 'ended:' .. name) == 1 then return 'used' end
local own = redis.call('HLEN', P .. 'account:' .. account) - 1
if own >= tonumber(ARGV[11]) then return 'callers many' end
if redis.call('ZCARD', P .. 'opened') >= tonumber(ARGV[12]) then return 'many' end
local grown = #image
for i = 13, #ARGV, 2 do grown = grown + #ARGV[i + 1] end
local full = room(account, grown, ARGV[9], ARGV[10])
if full then return full end
redis.call('HSET', session, 'token', token, 'opened', opened, 'owner', owner, 'account', account)
for i = 13, #ARGV, 2 do redis.call('HSET', session, ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', session, seconds)
if #image > 0 then redis.call('SET', P .. 'image:' .. name, image, 'EX', seconds) end
redis.call('ZADD', P .. 'opened', opened, name .. owner .. account)
redis.call('ZADD', P .. 'owner:' .. owner, told, name)
grow(name, account, grown)
return 'done'
"""
)
"""Name, owner, account, token; opened, told, seconds to live, image or nothing; most bytes, and a caller's, most
sessions of a caller, and in all; then fields with their values. By the token a script that comes again is known.
"""

CHANGE = (
    _COMMON
    + """
local name, account, token, first = ARGV[1], ARGV[2], ARGV[3], 8 + ARGV[7]
local session = P .. 'session:' .. name
local found = redis.call('HMGET', session, 'token', 'version')
if not found[2] then return 'gone' end
if found[1] == token then return 'done' end
if found[2] ~= ARGV[4] then return 'changed' end
local grown = 0
for i = 8, first - 1 do grown = grown - redis.call('HSTRLEN', session, ARGV[i]) end
for i = first, #ARGV, 2 do grown = grown + #ARGV[i + 1] - redis.call('HSTRLEN', session, ARGV[i]) end
local full = room(account, grown, ARGV[5], ARGV[6])
if full then return full end
redis.call('HSET', session, 'token', token)
for i = 8, first - 1 do redis.call('HDEL', session, ARGV[i]) end
for i = first, #ARGV, 2 do redis.call('HSET', session, ARGV[i], ARGV[i + 1]) end
grow(name, account, grown)
return 'done'
"""
)
"""Name, account, token, version before, most bytes, and a caller's; how many fields go, and those; then fields
with their values."""

END = (
    _COMMON
    + """
local name, owner, words = ARGV[1], ARGV[2], ARGV[3]
local ended = P .. 'ended:' .. name
local found = redis.call('HMGET', P .. 'session:' .. name, 'opened', 'account')
if not found[1] then return redis.call('GET', ended) or 'gone' end
drop(name, owner, found[2])
if words ~= '' then redis.call('SET', ended, words, 'EX', ARGV[4]) end
return words
"""
)
"""Name, owner; the words that are remembered, or nothing; for how many seconds."""

PURGE = (
    _COMMON
    + f"""
local old = redis.call('ZRANGEBYSCORE', P .. 'opened', '-inf', ARGV[1], 'LIMIT', 0, 100)
for _, each in ipairs(old) do
    local name = string.sub(each, 1, {NAME_DIGITS})
    drop(name, string.sub(each, {NAME_DIGITS + 1}, {2 * NAME_DIGITS}), string.sub(each, {2 * NAME_DIGITS + 1}))
    redis.call('SET', P .. 'ended:' .. name, 'old', 'EX', ARGV[2])
end
return #old
"""
)
"""Opened until when; for how many seconds the end is remembered. A hundred at most: others wait meanwhile."""
