-- Counting in Lua, with the work a metrics plugin of a gateway does for each request: a counter by service,
-- route, code and method, bytes each way, and three latency histograms, all in a shared dictionary under keys made
-- of strings. A histogram has cumulative buckets, a sum and a count. A request as fast as the benchmark's falls
-- into every bucket, so with five of them each histogram is seven increments: 24 for a request in all. Plugins in
-- use have more buckets.

local counters = ngx.shared.counters
local var = ngx.var

local BUCKETS = { 25, 80, 250, 1000, 5000 } -- milliseconds
local SERVICES = { ["/api"] = { service = "items", route = "items-v1" } }
local OTHER = { service = "none", route = "none" }

local function incr(key, by)
    local value, failure = counters:incr(key, by, 0)
    if not value then
        ngx.log(ngx.ERR, "counting: ", failure)
    end
end

local function observe(name, labels, value)
    for i = 1, #BUCKETS do
        if value <= BUCKETS[i] then
            incr(name .. "_bucket{" .. labels .. ',le="' .. BUCKETS[i] .. '"}', 1)
        end
    end
    incr(name .. "_count{" .. labels .. "}", 1)
    incr(name .. "_sum{" .. labels .. "}", value)
end

local function log()
    local uri = var.uri
    local matched = SERVICES[uri:sub(1, 4)] or OTHER
    local labels = 'service="' .. matched.service .. '",route="' .. matched.route .. '"'
    incr("http_requests_total{" .. labels .. ',code="' .. ngx.status .. '",method="' .. var.request_method .. '"}', 1)
    incr('bandwidth_bytes{' .. labels .. ',direction="ingress"}', tonumber(var.request_length) or 0)
    incr('bandwidth_bytes{' .. labels .. ',direction="egress"}', tonumber(var.bytes_sent) or 0)
    local request = (tonumber(var.request_time) or 0) * 1000
    local upstream = (tonumber(var.upstream_response_time) or 0) * 1000
    observe("request_latency_ms", labels, request)
    observe("upstream_latency_ms", labels, upstream)
    observe("gateway_latency_ms", labels, math.max(request - upstream, 0))
end

return { log = log }
