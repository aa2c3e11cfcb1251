-- Has wrk send one of the requests beside this, in the name of peers taken at random and with a level
-- that is another each time (so that wrk has the same to do however few peers there are), and say at
-- the end what came of it. Arguments: the request's file, how many peers there are, and whether the
-- connection is to be `kept` or to be closed after each.

local threads = 0
function setup(thread)
  threads = threads + 1
  thread:set("seed", threads)
end

local before, between, after, peers
function init(arguments)
  local file = assert(io.open(arguments[1], "r"))
  local text = file:read("*a")
  file:close()
  local head, body = text:match("^(.-\n\n)(.-)\n?$")
  if arguments[3] ~= "kept" then
    head = head:gsub("keep%-alive", "close")
  end
  local whole = head:gsub("\n", "\r\n") .. body
  before, between, after = whole:match("^(.-cell%-)%d+(.-level\": 0%.)%d+(.*)$")
  before = before or whole
  peers = tonumber(arguments[2])
  math.randomseed(seed)
end

function request()
  if not after then
    return before
  end
  local id, level = math.random(0, peers - 1), math.random(100000, 999999)
  return string.format("%s%06d%s%06d%s", before, id, between, level, after)
end

function done(summary, latency)
  local errors = summary.errors
  local lost = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format('{"requests":%d,"micros":%d,"refused":%d,"lost":%d}\n',
    summary.requests, summary.duration, errors.status, lost))
end
