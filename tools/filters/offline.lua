-- Quarto, after a render: mends what Quarto writes for features that the course does
-- not have. Every change leaves what it does not find as it is.

local function mend(text)
  return text
    -- A notebook with an HTML table makes Quarto load jQuery and RequireJS from
    -- another host, for widgets: no page makes a request to another host.
    :gsub('<script src="https://cdn%.jsdelivr%.net/npm/%a+@[^>]*></script>%s*', "")
    :gsub('<script type="application/javascript">define%(.jquery.-</script>%s*', "")
    -- Numbered lines of code begin with an empty link to nowhere, with a label that
    -- such a link must not have.
    :gsub('<a aria%-label="%d+"></a>', "")
    -- A deck that is scrolled, as on a phone, shows images late or not at all.
    :gsub("<img data%-src=", "<img src=")
    -- An equation's number, which Quarto makes a part of the formula, goes beside it.
    :gsub('<mspace width="2.0em"></mspace><mo [^>]*>%(</mo><mn>(%d+)</mn><mo [^>]*>%)'
      .. "</mo></mrow>(<annotation[^<]-)%s*\\qquad%(%d+%)(</annotation></semantics></math>)",
      '</mrow>%2%3<span class="equation-number">(%1)</span>')
    -- Keywords are for the search; a page does not show them.
    :gsub('<div>%s*<div class="keywords">.-</div>%s*<p>.-</p>%s*</div>%s*</div>', "")
    -- Decks name the folder of the build for each embedded figure.
    :gsub(' data%-notebook="[^"]*"', "")
end

for path in (os.getenv("QUARTO_PROJECT_OUTPUT_FILES") or ""):gmatch("[^\n]+") do
  if path:match("%.html$") then
    local file = assert(io.open(path, "rb"))
    local text = file:read("a")
    file:close()
    local clean = mend(text)
    if clean ~= text then
      file = assert(io.open(path, "wb"))
      file:write(clean)
      file:close()
    end
  end
end

-- A page with categories looks for the site's listings, of which there are none.
local folder = os.getenv("QUARTO_PROJECT_OUTPUT_DIR")
if folder then
  local path = folder .. "/listings.json"
  local there = io.open(path, "rb")
  if there then
    there:close()
  else
    local file = assert(io.open(path, "wb"))
    file:write("[]\n")
    file:close()
  end
end
