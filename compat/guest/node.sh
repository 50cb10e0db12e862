# What `gatewatch node` sees in this kernel; part of init.

# The node agent, in the background, until it serves; with requests if `requests` says so: node LOG PORT MODE [COMMAND…]
node() {
    log=/tmp/$1.log
    port=$2 mode=$3
    shift 3
    MODE=$mode ENABLE_L7_HTTP=$requests KUBECONFIG=/tmp/kubeconfig "$@" gatewatch node \
        --config /tmp/node.yaml --listen 127.0.0.1:"$port" >"$log" 2>&1 &
    agent=$!
    wait_for 60 ready_or_gone
    wget -q -O /dev/null http://127.0.0.1:"$port"/readyz
}

ready_or_gone() { wget -q -O /dev/null http://127.0.0.1:"$port"/readyz || ! kill -0 $agent; }

# What the agent said that is not good news, shortly.
complaints() { sed -n 's/.*"level":"\(warn\|error\)".*"msg":"\([^"]*\)".*/\2/p' "$log" | head -n 3 | cut -c1-400 | tr '\n' ' '; }

tier() { scrape | sed -n 's/^gatewatch_attempts_tier{tier="\([^"]*\)"}.*/\1/p'; }

outcomes() { metric gatewatch_tcp_attempt_ends_total "outcome=\"$1\""; }

# nginx calls: call TO PORT TIMES [REQUESTS [tls]]; connections and answers.
call() {
    timeout 200 wget -q -O - "http://127.0.0.1:8010/call?to=$1&port=$2&times=$3&requests=${4:-0}${5:+&tls=1}"
}

# 1,000 connects of nginx: 500 by IPv4, 200 by IPv6, 300 refused.
thousand() { echo "$(call 127.0.0.1 8010 500)" "$(call '[::1]' 8010 200)" "$(call 127.0.0.1 9 300)"; }

# The counts of the thousand: thousand_counted CHECK TIER
thousand_counted() {
    said=$(thousand)
    [ "$said" = "500 0 200 0 0 0" ] || tell "$1" FAIL "the callers say $said"
    wait_for 20 at_least internal_tcp_attempts_total 1000 'process_comm="nginx"'
    wait_for 20 ends_counted
    seen=$(metric internal_tcp_attempts_total 'process_comm="nginx"') lost=$(metric gatewatch_lost_total)
    words="1000 connects: $seen attempts, refused $(outcomes refused) of 300, lost $lost, tier $(tier)"
    if [ "$seen/$(outcomes refused)/$lost/$(tier)" = "1000/300/0/$2" ]; then
        tell "$1" ok "$words"
    else
        tell "$1" FAIL "$words, expected $2; $(complaints)"
        scrape | grep -E '^(gatewatch_(lost|tcp_attempt|attempts)|internal_tcp)' | grep -v ' 0$'
        cat "$log"
    fi
}

ends_counted() { [ "$(outcomes refused)" = 300 ]; }

expected_tier() { if older_than 6.15; then echo cgroup; else echo cgroup-first; fi; }

node_begins() {
    [ -e /tmp/node.crt ] && return
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=compat.test \
        -keyout /tmp/node.key -out /tmp/node.crt 2>/dev/null || echo "no certificate"
    nginx -c /compat/node.conf
    wait_for 30 port_open 8010
    printf 'node:\n  demand:\n    enabled: false\n' >/tmp/node.yaml
    cat >/tmp/kubeconfig <<END
apiVersion: v1
kind: Config
current-context: compat
clusters: [{name: compat, cluster: {server: "http://127.0.0.1:8001", certificate-authority: /tmp/node.crt}}]
contexts: [{name: compat, context: {cluster: compat, user: compat}}]
users: [{name: compat, user: {}}]
END
}

# Attempts, however they are learnt of.
check_attempts() {
    node_begins
    scraped=9111 requests=false
    if ! node attempts 9111 local; then
        tell attempts FAIL "$(complaints) $(tail -n 1 "$log")"
        end_agent
        return
    fi
    tell node_links ok "$(links)"
    thousand_counted attempts "$(expected_tier)"
    # Another one comes behind the programs of the first.
    first=$agent
    if older_than 6.15; then
        mount -t tracefs tracefs /sys/kernel/tracing
        scraped=9112
        if node attempts_call 9112 local; then
            thousand_counted attempts_behind_others cgroup-and-system-call
        else
            tell attempts_behind_others FAIL "$(complaints) $(tail -n 1 "$log")"
        fi
        end_agent
        umount /sys/kernel/tracing
        if node attempts_untraced 9112 local; then
            thousand_counted attempts_without_tracefs cgroup-behind-others
        else
            tell attempts_without_tracefs FAIL "$(complaints) $(tail -n 1 "$log")"
        fi
        end_agent
    fi
    agent=$first
    end_agent
    # Where the machine's hierarchy is not to be seen.
    umount /sys/fs/cgroup
    scraped=9111
    if node attempts_state 9111 local; then
        thousand_counted attempts_by_state socket-state
    else
        tell attempts_by_state FAIL "$(complaints) $(tail -n 1 "$log")"
    fi
    end_agent
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
}

# 1,000 requests read from sockets, and 200 from TLS.
check_sockets() {
    node_begins
    scraped=9111 requests=true
    if ! node sockets 9111 local || [ "$(metric gatewatch_probe_up requests)" != 1 ]; then
        tell sockets FAIL "$(complaints) $(tail -n 1 "$log")"
        end_agent
        return
    fi
    said=$(call 127.0.0.1 8010 100 10)
    [ "$said" = "100 1000" ] || tell sockets FAIL "the callers say $said"
    # Read a little later; the call is a request itself.
    wait_for 30 at_least internal_http_requests_total 1001
    usleep 500000
    here=$(metric internal_http_requests_total) none=$(metric gatewatch_http_responses_total 'status="4xx"')
    words="1000 requests: $((here - 1)), status 4xx $none of 200, lost $(metric gatewatch_lost_total), holes $(metric gatewatch_stream_holes_total), partial $(metric gatewatch_exchanges_partial_total); programs: $(socket_programs)"
    if [ "$here/$none/$(metric gatewatch_lost_total)" = 1001/200/0 ]; then
        tell sockets ok "$words"
    else
        tell sockets FAIL "$words; $(complaints)"
        scrape | grep -E '^(gatewatch_(lost|exchanges|http_resp|stream|pieces)|internal_http)' | grep -v ' 0$'
        cat "$log"
    fi
    if older_than 5.15; then
        # Said, not merely left out.
        if grep -q 'TLS.*5.15' "$log"; then tell tls lack "$(complaints)"; else tell tls FAIL "nothing is said: $(complaints)"; fi
        end_agent
        return
    fi
    wait_for 30 at_least gatewatch_tls_files 1
    said=$(call 127.0.0.1 8043 20 10 tls)
    wait_for 30 at_least internal_http_requests_total 1202
    usleep 500000
    words="200 requests within TLS: $(($(metric internal_http_requests_total) - 1002)), files $(metric gatewatch_tls_files), lost $(metric gatewatch_lost_total)"
    if [ "$said/$(metric internal_http_requests_total)/$(metric gatewatch_lost_total)" = "20 200/1202/0" ]; then
        tell tls ok "$words"
    else
        tell tls FAIL "the callers say $said; $words; $(complaints)"
        scrape | grep -E '^(gatewatch_(lost|exchanges|http_resp|stream|pieces|tls)|internal_http)' | grep -v ' 0$'
        cat "$log"
    fi
    end_agent
}

# By which programs sockets are read.
socket_programs() {
    if scrape | grep -q 'gatewatch_map_max_entries{map="socket_states_by_address"} 64$'; then
        echo sock_send_length, sock_recv_length
    else
        echo sys_exit
    fi
}

# A Service at zero: the first request of a pod waits until there is an endpoint.
check_hold() {
    node_begins
    veth
    scraped=9111 requests=false
    ip addr add 10.96.0.10/32 dev lo
    nsenter -n -t $peer ip route add 10.96.0.10 via 10.9.0.1
    rm -f /tmp/ready
    if ! node hold 9111 cluster || ! wait_for 30 at_least gatewatch_hold_interfaces 1; then
        tell hold FAIL "$(complaints) $(tail -n 1 "$log")"
        end_agent
        return
    fi
    # The node refuses with a reset: nobody listens there yet.
    (
        # Not wget: that of busybox came to a fault here.
        printf 'GET /1 HTTP/1.0\r\n\r\n' | timeout 25 nsenter -n -t $peer nc 10.96.0.10 80 >/tmp/held 2>/tmp/held.log
        echo "$? $(cut -d' ' -f1 /proc/uptime)" >/tmp/held.end
    ) &
    wait_for 10 at_least gatewatch_hold_waiting 1
    waiting=$(metric gatewatch_hold_waiting)
    httpd -p 10.96.0.10:80 -h /tmp/up
    begun=$(cut -d' ' -f1 /proc/uptime)
    touch /tmp/ready
    wait_for 30 test -s /tmp/held.end
    read -r code ended </tmp/held.end
    wait_for 10 at_least gatewatch_hold_connected_total 1
    words="held $waiting, answered $(head -n 1 /tmp/held | tr -d '\r') $(echo "$ended $begun" | awk '{ printf "%.2f", $1 - $2 }') s after readiness, connected $(metric gatewatch_hold_connected_total), replays refused $(metric gatewatch_hold_replay_failures_total); $(links)"
    if [ "$waiting/$code/$(metric gatewatch_hold_connected_total)" != 1/0/1 ] || ! grep -q '200 OK' /tmp/held; then
        tell hold FAIL "$words; $(tail -n 1 /tmp/held.log) $(complaints)"
        scrape | grep '^gatewatch_hold' | grep -v bucket
        cat "$log" /tmp/held.log
    elif [ "$(metric gatewatch_hold_replay_failures_total)" = 0 ]; then
        tell hold ok "$words"
    elif older_than 5.18; then
        tell hold lack "$words; the agent says: $(complaints)"
    else
        tell hold FAIL "$words; $(complaints)"
    fi
    end_agent
}
