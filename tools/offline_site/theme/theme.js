// Runs before the page is painted: the reader's own choice, else the system's.
(() => {
  const key = "quarto-color-scheme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try { return localStorage.getItem(key); } catch { return null; }
  };
  const show = () => {
    const choice = stored();
    const dark = choice ? choice === "alternate" : system.matches;
    document.body.classList.toggle("quarto-dark", dark);
    document.body.classList.toggle("quarto-light", !dark);
    const button = document.querySelector(".quarto-color-scheme-toggle");
    if (button) button.setAttribute("aria-pressed", String(dark));
  };
  window.toggleTheme = () => {
    const dark = document.body.classList.contains("quarto-dark");
    try { localStorage.setItem(key, dark ? "default" : "alternate"); } catch { return; }
    show();
  };
  system.addEventListener("change", show);
  document.addEventListener("DOMContentLoaded", show);
  show();
})();
