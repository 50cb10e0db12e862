-- As much of an API server as the agent asks for: Service shop/cart, which asks for the hold and has an endpoint as soon as
-- there is the file /tmp/ready.
local kind = ngx.var.uri:match("[^/]+$")
local meta = '{"name": "cart", "namespace": "shop", "uid": "u-%s", "resourceVersion": "%d", ' ..
    '"labels": {"kubernetes.io/service-name": "cart"}, "annotations": {"gatewatch.io/hold": "30s"}}'
local items = {
    services = '{"metadata": ' .. meta:format("service", 1) ..
        ', "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], ' ..
        '"ports": [{"port": 80, "protocol": "TCP"}]}}',
}
local slice = '{"metadata": ' .. meta:format("slice", 2) .. ', "addressType": "IPv4", "ports": [{"port": 80, ' ..
    '"protocol": "TCP"}], "endpoints": [{"addresses": ["10.9.0.1"], "conditions": {"ready": true}}]}'

ngx.header["Content-Type"] = "application/json"
if not ngx.var.arg_watch then
    ngx.say('{"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": [', items[kind] or "", "]}")
    return
end
ngx.send_headers()
ngx.flush(true)
local told = false
while true do
    local ready = kind == "endpointslices" and not told and io.open("/tmp/ready")
    if ready then
        ready:close()
        told = true
        ngx.say('{"type": "ADDED", "object": ', (slice:gsub("\n", "")), "}")
        ngx.flush(true)
    end
    ngx.sleep(0.02)
end
