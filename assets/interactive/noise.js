// What independence costs, and what noise does: SVI with Adam on a correlated Gaussian.
// A thousand rows y_i ~ Normal(theta, 1000 Sigma) with mean 0 and a flat prior have the
// posterior Normal(0, Sigma), and a batch of B rows shifts it to the mean of the batch.
"use strict";

Interactive.start("noise", (figure) => {
  const { panel, slider, toggle, button, set, animate, say, number, random, span } =
    Interactive;
  const { state } = figure;
  const [ROWS, STEPS, LAST] = [1000, 1000, 100];
  const SIZES = [10, 30, 100, 300, ROWS];
  const source = random(5);
  const rows = Array.from({ length: ROWS }, () => [source.normal(), source.normal()]);
  const mean = [0, 1].map((k) => rows.reduce((sum, row) => sum + row[k], 0) / ROWS);

  // The mean of a batch, in units of the posterior.
  const batchMean = ({ rho, size }, { uniform }) => {
    if (SIZES[size] === ROWS) return [0, 0];
    const sum = [0, 0];
    for (let i = 0; i < SIZES[size]; i += 1) {
      const row = rows[Math.floor(uniform() * ROWS)];
      sum[0] += row[0] - mean[0];
      sum[1] += row[1] - mean[1];
    }
    const [a, b] = sum.map((s) => (s / SIZES[size]) * Math.sqrt(ROWS));
    return [a, rho * a + Math.sqrt(1 - rho ** 2) * b];
  };

  // phi: center, log diagonal of the root L of the covariance, and its entry below.
  const gradient = (phi, draws) => {
    const { rho, particles, full } = state;
    const count = 2 ** particles;
    const seen = batchMean(state, draws);
    const found = [0, 0, 1, 1, 0];
    for (let k = 0; k < count; k += 1) {
      const [one, two] = [draws.normal(), draws.normal()];
      const [wide, high] = [Math.exp(phi[2]) * one, Math.exp(phi[3]) * two];
      const off = [seen[0] - phi[0] - wide, seen[1] - phi[1] - phi[4] * one - high];
      const slope = [off[0] - rho * off[1], off[1] - rho * off[0]].map(
        (s) => s / (1 - rho ** 2) / count);
      const terms = [slope[0], slope[1], slope[0] * wide, slope[1] * high];
      terms.push(full ? slope[1] * one : 0);
      terms.forEach((term, i) => (found[i] += term));
    }
    return found;
  };

  const divergence = ([m, n, a, b, below], rho) => {
    const [l, h] = [Math.exp(a), Math.exp(b)];
    const square = (x, y) => (x * x - 2 * rho * x * y + y * y) / (1 - rho ** 2);
    const trace = square(l, below) + square(0, h);
    return (square(m, n) + trace - 2 + Math.log(1 - rho ** 2)) / 2 - a - b;
  };

  const fit = () => {
    const draws = random(state.seed);
    const phi = [-2.5, 1.5, Math.log(0.3), Math.log(0.3), 0];
    const [first, second] = [phi.map(() => 0), phi.map(() => 0)];
    const peak = 10 ** state.rate;
    const path = [[...phi]];
    for (let t = 1; t <= STEPS; t += 1) {
      const cosine = (1 + Math.cos((Math.PI * (t - 1)) / STEPS)) / 2;
      const rate = state.decay ? peak * cosine : peak;
      gradient(phi, draws).forEach((g, i) => {
        first[i] = 0.9 * first[i] + 0.1 * g;
        second[i] = 0.999 * second[i] + 0.001 * g * g;
        const size = Math.sqrt(second[i] / (1 - 0.999 ** t)) + 1e-8;
        phi[i] += (rate * first[i]) / (1 - 0.9 ** t) / size;
      });
      path.push([...phi]);
    }
    return path;
  };

  const left = panel(figure, {
    says: "The target and the guide at one and two standard deviations.",
    x: [-4.86, 4.86], y: [-2.96, 2.96], xlabel: "θ₁", ylabel: "θ₂",
  });
  const target = [left.curve("gray wide"), left.curve("gray wide")];
  const walk = left.curve("other thin");
  const guide = [left.curve("fit"), left.curve("fit")];
  const [targetName, guideName] = [left.text("gray"), left.text("fit")];
  const right = panel(figure, {
    says: "The ELBO at each step, below the log evidence.",
    x: [0, STEPS], y: [-5, 0.5], xlabel: "step", ylabel: "ELBO − log p(D)",
  });
  const zero = right.curve("exact");
  const best = right.curve("third");
  const trace = right.curve("fit thin");
  const zeroName = right.text("exact", "end");
  const bestName = right.text("third", "end");
  const turn = span(0, 2 * Math.PI, 91);
  const ellipse = (draw, radius, [m, n, l, h, below]) => draw(
    turn.map((t) => m + radius * l * Math.cos(t)),
    turn.map((t) => n + radius * (below * Math.cos(t) + h * Math.sin(t))),
  );

  let [path, elbos] = [[], []];
  const show = (until) => {
    const [m, n, a, b, below] = path[until];
    const root = Math.sqrt(1 - state.rho ** 2);
    for (const k of [0, 1]) {
      ellipse(target[k], k + 1, [0, 0, 1, root, state.rho]);
      ellipse(guide[k], k + 1, [m, n, Math.exp(a), Math.exp(b), below]);
    }
    targetName(2.1, 2 * state.rho, "posterior");
    guideName(m + 2 * Math.exp(a) + 0.1, n - 0.6, "guide");
    const walked = path.slice(0, until + 1);
    walk(walked.map((phi) => phi[0]), walked.map((phi) => phi[1]));
    trace(walked.map((_, t) => t), elbos.slice(0, until + 1));
  };

  const log = { min: -3, max: -0.5, step: 0.1 };
  slider(figure, "rho", {
    label: "correlation ρ", min: 0, max: 0.99, step: 0.01, value: 0.9,
    shows: (v) => number(v),
  });
  slider(figure, "rate", {
    label: "learning rate", ...log, value: -1.5,
    shows: (v) => String(Number((10 ** v).toPrecision(2))),
  });
  slider(figure, "particles", {
    label: "particles", min: 0, max: 5, step: 1, value: 0, shows: (v) => `${2 ** v}`,
  });
  slider(figure, "size", {
    label: "batch size", min: 0, max: SIZES.length - 1, step: 1, value: 2,
    shows: (v) => (SIZES[v] === ROWS ? "all 1,000" : `${SIZES[v]} of 1,000`),
  });
  toggle(figure, "full", "full rank");
  toggle(figure, "decay", "cosine decay of the rate");
  button(figure, "run", "Watch it run", () => animate(figure, STEPS + 1, 4, show));
  button(figure, "draws", "Other draws", () => set(figure, { seed: state.seed + 1 }));
  state.seed = 11;

  figure.update = () => {
    path = fit();
    elbos = path.map((phi) => -divergence(phi, state.rho));
    const family = state.full ? 0 : -0.5 * Math.log(1 - state.rho ** 2);
    const missing = -elbos.slice(-LAST).reduce((sum, v) => sum + v, 0) / LAST;
    zero([0, STEPS], [0, 0]);
    best([0, STEPS], [-family, -family]);
    zeroName(STEPS - 10, 0.12, "log p(D)");
    const beside = family > 0.6 ? 0.12 : -0.42;
    bestName(STEPS - 10, beside - family, "best of the family");
    show(STEPS);
    say(figure, `The last 100 steps are ${number(missing)} nats below log p(D): ` +
      `${number(family)} for the family, ${number(missing - family)} for noise and ` +
      "unfinished training.", {
      family, missing, elbo: elbos[STEPS], phi: path[STEPS].join(" "),
    });
  };
});
