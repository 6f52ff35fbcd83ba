-- Quarto: puts a row of links under the title of a notebook's page. The row holds
-- "Download this notebook" and, where _quarto.yml names a repository on GitHub,
-- "Open in Colab". A deck gets a title of its own in the browser's tab, so that it
-- differs from the page of the same notebook.

local function website(root)
  local file = assert(io.open(root .. "/_quarto.yml"))
  local text = file:read("a")
  file:close()
  return pandoc.read("---\n" .. text .. "\n---\n", "markdown").meta.website or {}
end

local function link(text, href)
  return string.format('<a href="%s" data-noresolveinput="true">%s</a>', href, text)
end

function Pandoc(doc)
  local path = quarto.doc.input_file
  local root = quarto.project.directory
  if quarto.doc.is_format("revealjs") and doc.meta.title and doc.meta.subtitle then
    doc.meta.pagetitle = pandoc.utils.stringify(doc.meta.title) .. ": "
      .. pandoc.utils.stringify(doc.meta.subtitle)
    return doc
  end
  if not root or not path:match("%.ipynb$") or not quarto.doc.is_format("html:js")
     or quarto.doc.is_format("revealjs") then
    return nil
  end
  local name = pandoc.path.filename(path)
  local links = { link("Download this notebook", name) }
  local site = website(root)
  local repository = site["repo-url"] and
    pandoc.utils.stringify(site["repo-url"]):match("^https://github%.com/(.-)/?$")
  if repository then
    local branch = pandoc.utils.stringify(site["repo-branch"] or "main")
    local inside = pandoc.path.make_relative(path, root)
    table.insert(links, link("Open in Colab", string.format(
      "https://colab.research.google.com/github/%s/blob/%s/%s",
      repository, branch, inside)))
  end
  doc.blocks:insert(1, pandoc.RawBlock(
    "html", '<p class="course-links">' .. table.concat(links, "\n") .. "</p>"))
  return doc
end
