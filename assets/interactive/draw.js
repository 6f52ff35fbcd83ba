// What the interactive figures share: panels, controls, a readout, random numbers.
// Classic scripts, since a page that is opened as a file may not load modules.
"use strict";

const Interactive = (() => {
  const [WIDTH, HEIGHT, LEFT, TOP] = [400, 260, 54, 10];
  const [WIDE, HIGH] = [WIDTH - LEFT - 18, HEIGHT - TOP - 42];
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  // Fill each place on the page that waits for this figure.
  const fill = (name, build) => {
    for (const box of document.querySelectorAll(`.interactive-${name}:not(.ready)`)) {
      const part = (tag, kind) => {
        const made = box.appendChild(document.createElement(tag));
        made.className = kind;
        return made;
      };
      const figure = { box, state: {}, sync: {}, update: () => {}, frame: 0 };
      for (const kind of ["panels", "sliders", "buttons"]) figure[kind] = part("div", kind);
      // Eyes read each number at once; a screen reader says the last one, when it rests.
      figure.shown = part("p", "readout");
      figure.shown.setAttribute("aria-hidden", "true");
      figure.spoken = part("p", "screen-reader-only");
      figure.spoken.setAttribute("aria-live", "polite");
      box.setAttribute("role", "group");
      box.dataset.preventSwipe = ""; // a finger on a slider turns no slide
      box.addEventListener("keydown", (event) => event.stopPropagation());
      build(figure);
      figure.update();
      clearTimeout(figure.wait); // nothing is said before somebody moves something
      figure.spoken.textContent = figure.shown.textContent;
      box.classList.add("ready");
    }
  };
  // While reveal.js lays out slides for paper, they are not part of the page.
  const start = (name, build) => {
    fill(name, build);
    globalThis.Reveal?.on("pdf-ready", () => fill(name, build));
  };

  const nice = (low, high) => {
    const rough = (high - low) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
    const found = [];
    for (let i = Math.ceil(low / step); i * step <= high; i += 1)
      found.push([i * step, String(+(i * step).toFixed(6)).replace("-", "−")]);
    return found;
  };

  const panel = (figure, { says, x, y, xlabel, ylabel, xticks, yticks }) => {
    const svg = document.createRange().createContextualFragment(
      `<svg class="panel" role="img" viewBox="0 0 ${WIDTH} ${HEIGHT}"></svg>`,
    ).firstChild;
    figure.panels.append(svg);
    svg.setAttribute("aria-label", says);
    const make = (name, attributes, parent = svg, words = "") => {
      const part = document.createElementNS(svg.namespaceURI, name);
      for (const [key, value] of Object.entries(attributes)) part.setAttribute(key, value);
      part.textContent = words;
      return parent.appendChild(part);
    };
    const frame = make("g", { class: "axes" });
    const inside = { x: LEFT, y: TOP, width: WIDE, height: HIGH };
    const plot = make("svg", inside);
    const limits = { x, y };
    const share = (value, [low, high]) =>
      Math.max(-3, Math.min(4, (value - low) / (high - low)));
    const across = (value) => WIDE * share(value, limits.x);
    const up = (value) => HIGH * (1 - share(value, limits.y));
    const axes = () => {
      frame.replaceChildren();
      const corner = `M${LEFT} ${TOP}V${TOP + HIGH}H${LEFT + WIDE}`;
      make("path", { d: corner }, frame);
      for (const [value, words] of xticks || nice(...limits.x)) {
        const at = LEFT + across(value);
        make("path", { d: `M${at} ${TOP + HIGH}v4` }, frame);
        const place = { x: at, y: TOP + HIGH + 18, "text-anchor": "middle" };
        make("text", place, frame, words);
      }
      for (const [value, words] of yticks || nice(...limits.y)) {
        const at = TOP + up(value);
        make("path", { d: `M${LEFT} ${at}h-4` }, frame);
        make("text", { x: LEFT - 7, y: at + 4.5, "text-anchor": "end" }, frame, words);
      }
      const below = { x: LEFT + WIDE / 2, y: HEIGHT - 6, "text-anchor": "middle" };
      make("text", below, frame, xlabel);
      const middle = TOP + HIGH / 2;
      const turned = { transform: `translate(12 ${middle}) rotate(-90)` };
      make("text", { ...turned, "text-anchor": "middle" }, frame, ylabel);
    };
    axes();
    return {
      range(axis, low, high) {
        const [before, after] = limits[axis];
        if (before === low && after === high) return;
        limits[axis] = [low, high];
        axes();
      },
      curve(kind) {
        const path = make("path", { class: kind }, plot);
        return (xs, ys) => {
          const at = (value, i) => `${across(value).toFixed(2)} ${up(ys[i]).toFixed(2)}`;
          path.setAttribute("d", xs.length ? `M${Array.from(xs, at).join("L")}` : "");
        };
      },
      text(kind, anchor = "start") {
        const part = make("text", { class: kind, "text-anchor": anchor }, plot);
        return (xAt, yAt, words) => {
          part.setAttribute("x", across(xAt));
          part.setAttribute("y", up(yAt));
          part.textContent = words;
        };
      },
      // A point to drag; the sliders do the same for the keyboard.
      handle(kind, moved) {
        const point = make("g", { class: `handle ${kind}` });
        make("circle", { r: 20, class: "reach" }, point);
        make("circle", { r: 7 }, point);
        point.addEventListener("pointerdown", (event) => {
          point.setPointerCapture(event.pointerId);
          event.preventDefault();
        });
        point.addEventListener("pointermove", (event) => {
          if (!point.hasPointerCapture(event.pointerId)) return;
          const box = svg.getBoundingClientRect();
          const right = ((event.clientX - box.left) / box.width) * WIDTH - LEFT;
          const [low, high] = limits.x;
          moved(low + (right / WIDE) * (high - low));
        });
        return (xAt, yAt) =>
          point.setAttribute("transform", `translate(${LEFT + across(xAt)} ${TOP + up(yAt)})`);
      },
    };
  };

  // A range from `min` to `max` for a number of the state; `shows` puts it in words.
  const slider = (figure, name, { label, min, max, step, value, shows = String }) => {
    const made = figure.sliders.appendChild(document.createElement("label"));
    made.className = "slider";
    made.innerHTML = '<span></span><b></b><input type="range">';
    const [words, number, input] = made.children;
    words.textContent = label;
    Object.assign(input, { name, min, max, step });
    figure.state[name] = value;
    figure.sync[name] = () => {
      input.value = figure.state[name];
      number.textContent = shows(figure.state[name]);
      input.setAttribute("aria-valuetext", number.textContent);
    };
    figure.sync[name]();
    input.addEventListener("input", () => set(figure, { [name]: Number(input.value) }));
    return { clamp: (wanted) => Math.max(min, Math.min(max, wanted)) };
  };

  const toggle = (figure, name, label) => {
    const made = figure.buttons.appendChild(document.createElement("label"));
    made.className = "toggle";
    made.innerHTML = '<input type="checkbox"><span></span>';
    const [input, words] = made.children;
    words.textContent = label;
    input.name = name;
    figure.state[name] = false;
    figure.sync[name] = () => (input.checked = figure.state[name]);
    input.addEventListener("change", () => set(figure, { [name]: input.checked }));
  };

  const button = (figure, name, label, pressed) => {
    const made = figure.buttons.appendChild(document.createElement("button"));
    Object.assign(made, { type: "button", name, textContent: label });
    made.addEventListener("click", pressed);
  };

  const halt = (figure) => {
    cancelAnimationFrame(figure.frame);
    figure.frame = 0;
  };

  const set = (figure, values) => {
    halt(figure);
    Object.assign(figure.state, values);
    for (const name of Object.keys(values)) figure.sync[name]?.();
    figure.update(Object.keys(values));
  };

  // Call `step(0)` to `step(count - 1)` within some seconds; at once for whoever wants
  // no motion. The next change of a control ends it.
  const animate = (figure, count, seconds, step) => {
    halt(figure);
    let [next, begun] = [0, null];
    const tick = (now) => {
      begun ??= now;
      const due = still.matches ? count : ((now - begun) / 1000 / seconds) * count;
      while (next < count && next <= due) step(next++);
      if (next < count) figure.frame = requestAnimationFrame(tick);
    };
    if (still.matches) tick(0);
    else figure.frame = requestAnimationFrame(tick);
  };

  // Show a sentence, and keep the numbers in it to all digits on the box.
  const say = (figure, words, numbers) => {
    figure.shown.textContent = words;
    for (const [name, value] of Object.entries(numbers)) figure.box.dataset[name] = value;
    clearTimeout(figure.wait);
    figure.wait = setTimeout(() => (figure.spoken.textContent = words), 900);
  };

  const number = (value, digits = 2) => value.toFixed(digits).replace("-", "−");

  // Random numbers that a seed repeats: Marsaglia's xorshift with 32 bits.
  const random = (seed) => {
    let bits = seed;
    const uniform = () => {
      bits ^= bits << 13;
      bits ^= bits >>> 17;
      bits ^= bits << 5;
      return (bits >>> 0) / 2 ** 32;
    };
    const normal = () => {
      const radius = Math.sqrt(-2 * Math.log(uniform()));
      return radius * Math.cos(2 * Math.PI * uniform());
    };
    return { uniform, normal };
  };

  const span = (low, high, count) =>
    Float64Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1));
  const logNormal = (at, center, width) =>
    -0.5 * ((at - center) / width) ** 2 - Math.log(width) - 0.5 * Math.log(2 * Math.PI);

  return {
    start, panel, slider, toggle, button, set, animate, say, number, random, span,
    logNormal,
  };
})();
