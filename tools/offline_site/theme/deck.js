// Starts reveal.js and steps through code: code-line-numbers="|1-3|4,6".
(() => {
  const lines = (part) => {
    const wanted = new Set();
    for (const range of part.split(",").filter(Boolean)) {
      const [from, to] = range.split("-").map(Number);
      for (let line = from; line <= (to || from); line += 1) wanted.add(line);
    }
    return wanted;
  };

  const highlight = (code, part) => {
    const wanted = lines(part);
    code.classList.toggle("has-line-highlights", wanted.size > 0);
    [...code.children].forEach((line, index) => {
      line.classList.toggle("highlight-line", wanted.has(index + 1));
    });
  };

  const prepare = (block) => {
    const code = block.querySelector("code");
    const steps = block.dataset.codeLineNumbers.split("|");
    highlight(code, steps[0]);
    steps.slice(1).forEach((part, index) => {
      const step = document.createElement("span");
      step.className = "fragment code-step";
      step.dataset.part = part;
      step.dataset.before = steps[index];
      block.append(step);
    });
  };

  window.courseDeck = (options) => {
    document.querySelectorAll("div[data-code-line-numbers]").forEach(prepare);
    const on = (event, name) => {
      for (const step of event.fragments.filter((f) => f.matches(".code-step"))) {
        const code = step.closest("[data-code-line-numbers]").querySelector("code");
        highlight(code, step.dataset[name]);
      }
    };
    Reveal.on("fragmentshown", (event) => on(event, "part"));
    Reveal.on("fragmenthidden", (event) => on(event, "before"));
    Reveal.initialize({
      hash: true,
      transition: "none",
      controlsLayout: "edges",
      navigationMode: "linear",
      pdfSeparateFragments: false,
      plugins: [RevealNotes],
      ...options,
    });
  };
})();
