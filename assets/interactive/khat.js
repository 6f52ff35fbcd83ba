// What k-hat sees: importance weights of a guide that the reader stretches and shifts,
// and the generalized Pareto distribution that PSIS fits to the largest of them.
"use strict";

Interactive.start("khat", (figure) => {
  const { panel, slider, toggle, button, set, say, number, random, span, logNormal } =
    Interactive;
  const { state } = figure;
  const [DRAWS, APART, LIMIT] = [20000, 7, 0.7];
  const TAIL = Math.floor(3 * Math.sqrt(DRAWS));
  let draws = [];
  const draw = () => {
    const { normal } = random(state.seed);
    draws = Float64Array.from({ length: DRAWS }, normal);
  };

  const logTarget = (at) => {
    const here = logNormal(at, 0, 1);
    if (!state.second) return here;
    const there = logNormal(at, APART, 1);
    const most = Math.max(here, there);
    return most + Math.log((Math.exp(here - most) + Math.exp(there - most)) / 2);
  };
  const logGuide = (at) => logNormal(at, state.center, state.width);
  const mean = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;

  // The empirical Bayes estimate of Zhang and Stephens (2009), with the weak prior of
  // PSIS, from sorted excesses over the cutoff. Returns shape and scale.
  const fitPareto = (excess) => {
    const n = excess.length;
    const quarter = excess[Math.floor(n / 4 + 0.5) - 1];
    if (quarter <= excess[0]) return [NaN, NaN];
    const count = 30 + Math.floor(Math.sqrt(n));
    const shape = (b) => mean(excess.map((e) => Math.log1p(-b * e)));
    const tried = Array.from({ length: count }, (_, i) =>
      (1 - Math.sqrt(count / (i + 0.5))) / (3 * quarter) + 1 / excess[n - 1]);
    const logs = tried.map((b) => {
      const k = shape(b);
      return n * (Math.log(-b / k) - k - 1);
    });
    const most = Math.max(...logs);
    const likely = logs.map((log) => Math.exp(log - most));
    const total = likely.reduce((sum, v) => sum + v, 0);
    const b = tried.reduce((sum, v, i) => sum + (v * likely[i]) / total, 0);
    const k = shape(b);
    return [(n * k + 5) / (n + 10), -k / b];
  };

  const judge = () => {
    const logs = draws.map((z) => {
      const at = state.center + state.width * z;
      return logTarget(at) - logGuide(at);
    }).sort();
    const most = logs[DRAWS - 1];
    const weights = logs.map((log) => Math.exp(log - most));
    const total = weights.reduce((sum, w) => sum + w, 0);
    const squares = weights.reduce((sum, w) => sum + w * w, 0);
    const cutoff = weights[DRAWS - TAIL - 1];
    const excess = weights.slice(-TAIL).map((w) => w - cutoff);
    const flat = most - logs[DRAWS - TAIL] === 0;
    const [khat, sigma] = flat ? [-Infinity, NaN] : fitPareto(excess);
    return {
      logs, khat, sigma, cutoff, most, ess: total ** 2 / squares / DRAWS,
      evidence: most + Math.log(total / DRAWS),
    };
  };

  const left = panel(figure, {
    says: "The posterior and the guide. The numbers stand below.",
    x: [-5, 11], y: [0, 0.65], xlabel: "θ", ylabel: "density",
  });
  const fine = span(-5, 11, 321);
  const posterior = left.curve("exact");
  const shade = left.curve("fit shade");
  const guide = left.curve("fit");
  const posteriorName = left.text("exact");
  const guideName = left.text("fit");
  const ten = (powers) => powers.map((p) => [p, `10${String(p).replace(/[-\d]/g,
    (c) => "⁻⁰¹²³⁴"["-01234".indexOf(c)])}`]);
  const right = panel(figure, {
    says: "The share of weights that are larger than w, both axes logarithmic.",
    x: [-2.2, 4.2], y: [-4.6, 0.25], xlabel: "weight w", ylabel: "share of larger weights",
    xticks: ten([-2, -1, 0, 1, 2, 3, 4]), yticks: ten([-4, -3, -2, -1, 0]),
  });
  const tail = right.curve("other band");
  const curve = right.curve("fit");
  const tailName = right.text("other");

  const center = slider(figure, "center", {
    label: "center of the guide", min: -3, max: 3, step: 0.01, value: 0,
    shows: (v) => number(v),
  });
  const width = slider(figure, "width", {
    label: "its sd / sd of the posterior", min: 0.3, max: 2, step: 0.01, value: 0.5,
    shows: (v) => number(v),
  });
  toggle(figure, "second", "a second mode, far away");
  button(figure, "draws", "Other draws", () => {
    state.seed += 1;
    draw();
    figure.update();
  });
  state.seed = 4; // at half the sd, the median k-hat of many seeds
  draw();
  const middle = left.handle("fit", (at) => set(figure, { center: center.clamp(at) }));
  const side = left.handle("fit small", (at) =>
    set(figure, { width: width.clamp(Math.abs(at - state.center)) }));

  figure.update = () => {
    const found = judge();
    const density = (v) => Math.exp(logGuide(v));
    const peak = density(state.center);
    left.range("y", 0, Math.max(0.65, 1.15 * peak));
    posterior(fine, fine.map((v) => Math.exp(logTarget(v))));
    for (const drawn of [guide, shade]) drawn(fine, fine.map(density));
    middle(state.center, peak);
    side(state.center + state.width, density(state.center + state.width));
    guideName(state.center + 0.55 * state.width + 0.3, 0.92 * peak, "guide");
    posteriorName(state.second ? 8.3 : 2, state.second ? 0.17 : 0.09, "posterior");

    const share = (rank) => Math.log10(1 - (rank + 0.5) / DRAWS);
    const bulk = Array.from({ length: 300 }, (_, i) => i * Math.floor(DRAWS / 300));
    const ranks = [...bulk, ...Array.from({ length: TAIL }, (_, i) => DRAWS - TAIL + i)];
    ranks.sort((a, b) => a - b);
    curve(ranks.map((rank) => found.logs[rank] / Math.LN10), ranks.map(share));
    // The fitted tail: all weights but the share TAIL / DRAWS lie below the cutoff.
    const { khat, sigma, cutoff, most } = found;
    const grow = span(0, 6, 121).map((t) => cutoff * (10 ** t - 1));
    const inside = Array.from(grow).filter((e) => 1 + (khat * e) / sigma > 0);
    const line = Number.isFinite(khat) ? inside : [];
    const over = line.map((e) =>
      Math.log10(TAIL / DRAWS) - Math.log10(1 + (khat * e) / sigma) / khat);
    const at = line.map((e) => (most + Math.log(cutoff + e)) / Math.LN10);
    tail(at, over);
    const low = over.findIndex((v) => v < -3);
    tailName((at[low < 0 ? at.length - 1 : low] ?? 5) + 0.15, -2.9, "Pareto tail");
    const words = Number.isFinite(khat) ? number(khat) : "not defined: equal weights";
    const verdict = khat < LIMIT ? "below 0.7" : "above 0.7";
    const fair = Number.isFinite(khat) ? `, ${verdict}` : "";
    say(figure, `k-hat ${words}${fair}. Relative effective sample size ` +
      `${number(found.ess)}. Log evidence: ${number(found.evidence)} estimated, 0 exact.`, {
      khat, ess: found.ess, evidence: found.evidence,
      center: state.center, width: state.width,
    });
  };
});
