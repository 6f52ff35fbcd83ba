-- Both engines: MathML sets "log p" without the thin space that TeX puts there.

local names = { "log", "exp", "sin", "cos", "tan", "det", "dim", "ln" }

function Math(math)
  for _, name in ipairs(names) do
    -- Before a letter or a command, but not before a bracket of any kind.
    math.text = math.text:gsub("\\" .. name .. "%s*([%a\\])", function(after)
      return "\\" .. name .. "\0" .. after
    end)
    math.text = math.text:gsub("\\" .. name .. "%z(\\%a+)", function(command)
      local bracket = command:match("^\\left") or command:match("^\\[bB]ig") or
        command:match("^\\limits")
      return "\\" .. name .. (bracket and " " or "\\,") .. command
    end)
    math.text = math.text:gsub("\\" .. name .. "%z", "\\" .. name .. "\\, ")
  end
  return math
end
