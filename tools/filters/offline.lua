-- Quarto, after a render: a notebook with an HTML table makes Quarto load jQuery
-- and RequireJS from another host, for widgets that the course does not have.
-- This takes those scripts out again: no page makes a request to another host.

for path in (os.getenv("QUARTO_PROJECT_OUTPUT_FILES") or ""):gmatch("[^\n]+") do
  if path:match("%.html$") then
    local file = assert(io.open(path, "rb"))
    local text = file:read("a")
    file:close()
    local clean = text
      :gsub('<script src="https://cdn%.jsdelivr%.net/npm/%a+@[^>]*></script>%s*', "")
      :gsub('<script type="application/javascript">define%(.jquery.-</script>%s*', "")
    if clean ~= text then
      file = assert(io.open(path, "wb"))
      file:write(clean)
      file:close()
    end
  end
end
