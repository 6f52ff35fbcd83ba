-- Quarto: puts "Download this notebook" under the title of a notebook's page, where
-- tools/downloads.py may add "Open in Colab". A deck gets a title of its own in the
-- browser's tab, so that it differs from the page of the same notebook.

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
  doc.blocks:insert(1, pandoc.RawBlock(
    "html", '<p class="course-links"><a href="' .. name
      .. '" data-noresolveinput="true">Download this notebook</a></p>'))
  return doc
end
