-- work: what the luajit workload runs: numbers, tables, strings and closures, all of it hot enough to be compiled.
local bit = require("bit")

local function sieve(limit)
  local composite, count = {}, 0
  for i = 2, limit do
    if not composite[i] then
      count = count + 1
      for j = i * i, limit, i do composite[j] = true end
    end
  end
  return count
end

local function mandelbrot(size)
  local inside = 0
  for y = 0, size - 1 do
    for x = 0, size - 1 do
      local cr, ci, zr, zi, n = 2 * x / size - 1.5, 2 * y / size - 1, 0, 0, 0
      while n < 60 and zr * zr + zi * zi < 4 do
        zr, zi, n = zr * zr - zi * zi + cr, 2 * zr * zi + ci, n + 1
      end
      if n == 60 then inside = inside + 1 end
    end
  end
  return inside
end

local function strings(count)
  local parts, hash = {}, 0
  for i = 1, count do
    parts[#parts + 1] = tostring(i * 7919 % 10007)
    if #parts == 50 then
      local line = table.concat(parts, ",")
      for at = 1, #line do hash = bit.bxor(bit.rol(hash, 5), line:byte(at)) end
      parts = {}
    end
  end
  return hash
end

local function closures(count)
  local total = 0
  local adders = {}
  for i = 1, 8 do adders[i] = function(x) return (x + i * 3) % 1000003 end end
  for i = 1, count do total = adders[i % 8 + 1](total) end
  return total
end

local function objects(count)
  local Point = {}
  Point.__index = Point
  function Point.add(a, b) return setmetatable({x = a.x + b.x, y = a.y - b.y}, Point) end
  local at, step = setmetatable({x = 0, y = 0}, Point), setmetatable({x = 1.5, y = 0.25}, Point)
  local row = {}
  for i = 1, count do
    at = at:add(step)
    row[i % 64 + 1] = at
  end
  return at.x + row[3].y
end

-- Many small functions from text, each hot for a moment: the compiler itself and its code's replacement.
local function fresh(count)
  local total = 0
  for i = 1, count do
    local made = assert(loadstring("local t = ... for j = 1, 200 do t = (t * " .. i .. " + j) % 65521 end return t"))
    total = made(total)
  end
  return total
end

print(sieve(2500000), mandelbrot(420), strings(250000), closures(20000000), objects(2000000), fresh(400))
