-- Connects `times` times to `to`:`port`, and makes `requests` on each connection, with TLS if asked to; says how many
-- connections there were, and how many answers.
local ask = ngx.var
local connected, answered = 0, 0
for _ = 1, tonumber(ask.arg_times) do
    local socket = ngx.socket.tcp()
    socket:settimeout(20000)
    if socket:connect(ask.arg_to, tonumber(ask.arg_port)) then
        connected = connected + 1
        if ask.arg_tls then assert(socket:sslhandshake(nil, nil, false)) end
        for number = 1, tonumber(ask.arg_requests or 0) do
            local path = number % 4 == 0 and "/none" or "/here"
            assert(socket:send("GET " .. path .. " HTTP/1.1\r\nHost: compat.test\r\n\r\n"))
            local length
            repeat
                local line = assert(socket:receive())
                length = tonumber(line:match("^Content%-Length: (%d+)")) or length
            until line == ""
            assert(socket:receive(length))
            answered = answered + 1
        end
        socket:close()
    end
end
ngx.say(connected, " ", answered)
