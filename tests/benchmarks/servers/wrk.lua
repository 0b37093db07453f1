-- The request comes from the environment; the result goes out as one line of JSON.
local function number(name) return tonumber(os.getenv(name) or "0") end
wrk.method = os.getenv("METHOD")
wrk.headers["User-Agent"] = "benchmark"
wrk.headers["Accept"] = "*/*"
if number("BODY") > 0 then
  wrk.body = string.rep("x", number("BODY"))
  wrk.headers["Content-Type"] = "application/octet-stream"
end
if os.getenv("CLOSE") == "1" then wrk.headers["Connection"] = "close" end
for i = 1, number("MORE_HEADERS") do wrk.headers["X-More-" .. i] = "the value of one more header, " .. i end

if os.getenv("UNLIKE") == "1" then -- no request head is like another
  local count = 0
  function request()
    count = count + 1
    return wrk.format(nil, nil, { ["User-Agent"] = "benchmark", ["Accept"] = "*/*", ["X-Trace"] = "trace-" .. count })
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"octets":%d,"us":%d,"p50_us":%d,"p99_us":%d,"status":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d}\n',
    summary.requests, summary.bytes, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
