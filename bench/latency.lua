-- For wrk: percentiles to the microsecond, where --latency prints three digits.
done = function(summary, latency)
    print(string.format("percentiles %d %d", latency:percentile(50), latency:percentile(99)))
end
