// Theme button, menu on small screens, copy buttons, contents, search.
(() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);

  one(".quarto-color-scheme-toggle").addEventListener("click", window.toggleTheme);

  const menu = one(".menu-button");
  menu.addEventListener("click", () => {
    const open = one("#quarto-sidebar").classList.toggle("open");
    menu.setAttribute("aria-expanded", String(open));
  });

  for (const button of all(".code-copy-button")) {
    button.addEventListener("click", async () => {
      const text = button.parentElement.querySelector("code").innerText;
      await navigator.clipboard.writeText(text);
      button.classList.add("code-copy-button-checked");
      setTimeout(() => button.classList.remove("code-copy-button-checked"), 1000);
    });
  }

  // The entry of the section one reads.
  const links = new Map(all("#TOC a.nav-link").map((a) => [a.hash.slice(1), a]));
  const seen = new IntersectionObserver((entries) => {
    // A part comes after what it is a part of.
    const entry = entries.filter((e) => e.isIntersecting).pop();
    if (!entry) return;
    links.forEach((link) => link.classList.remove("active"));
    links.get(entry.target.id)?.classList.add("active");
  }, { rootMargin: "-10% 0px -75% 0px" });
  for (const id of links.keys()) {
    const section = document.getElementById(id);
    if (section) seen.observe(section);
  }

  // Search: the index is loaded when it is first needed.
  const up = one("#quarto-sidebar").dataset.up;
  const field = one("#quarto-search input");
  const list = one(".search-results");
  const load = () => {
    if (one("script[data-index]")) return;
    const script = document.createElement("script");
    script.src = `${up}site/search-index.js`;
    script.dataset.index = "";
    script.onload = search;
    document.head.append(script);
  };
  let index;
  const search = () => {
    const query = field.value.trim();
    list.replaceChildren();
    list.hidden = !query;
    if (!query || !window.courseIndex) return;
    if (!index) {
      index = new window.Fuse();
      for (const item of window.courseIndex) index.add(item);
    }
    const found = index.search(query, { limit: 12 });
    for (const { item: hit } of found) {
      const link = document.createElement("a");
      link.href = up + hit.href;
      const title = document.createElement("strong");
      title.textContent = hit.section ? `${hit.title}: ${hit.section}` : hit.title;
      const text = document.createElement("span");
      text.innerHTML = hit.text;
      link.append(title, text);
      const item = document.createElement("li");
      item.append(link);
      list.append(item);
    }
    if (!found.length) {
      const item = document.createElement("li");
      item.textContent = "Nothing found";
      list.append(item);
    }
  };
  field.addEventListener("focus", load);
  field.addEventListener("input", () => { load(); search(); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.closest("input")) {
      event.preventDefault();
      field.focus();
    } else if (event.key === "Escape" && event.target === field) {
      field.value = "";
      search();
    }
  });
})();
