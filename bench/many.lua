-- wrk: 10,000 distinct paths of plain words (nothing to fold by shape) and 1,000 hosts, combined at random.

local first = { "account", "basket", "catalog", "delivery", "event", "feedback", "gift", "history", "invoice", "journal",
    "kitchen", "ledger", "member", "notice", "offer", "payment", "quote", "refund", "stock", "ticket" }
local syllables = { "ba", "ce", "di", "fo", "gu", "ha", "ke", "li", "mo", "nu", "pa", "re", "si", "to", "vu", "wa", "xe",
    "yi", "zo", "cha", "dre", "fli", "gro", "plu", "sta" }

local paths, hosts = {}, {}
for _, a in ipairs(first) do
    for _, b in ipairs(syllables) do
        for i = 1, 20 do
            paths[#paths + 1] = "/" .. a .. "/" .. b .. syllables[i] .. "n/" .. syllables[26 - i] .. b .. "rt"
        end
    end
end
for i = 1, 1000 do
    hosts[i] = syllables[i % 25 + 1] .. syllables[math.floor(i / 25) % 25 + 1] .. i .. ".shop.example"
end

math.randomseed(7)
local turn = 0

function request()
    turn = turn + 1 -- each path once before any comes by chance
    local path = paths[turn] or paths[math.random(#paths)]
    local host = hosts[(turn <= 10000) and (turn % 1000 + 1) or math.random(#hosts)]
    return "GET " .. path .. " HTTP/1.1\r\nHost: " .. host .. "\r\nUser-Agent: bench\r\n\r\n"
end
