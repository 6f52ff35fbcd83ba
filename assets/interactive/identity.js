// The identity log p(D) = ELBO + KL, for a guide that the reader moves. The posterior
// is that of notebook 02: nine of ten said yes, theta is the log odds.
"use strict";

Interactive.start("identity", (figure) => {
  const { panel, slider, toggle, button, set, animate, say, number, span, logNormal } =
    Interactive;
  const { state } = figure;
  const grid = span(-16, 16, 6401);
  const dx = grid[1] - grid[0];
  const softplus = (v) => Math.max(v, 0) + Math.log1p(Math.exp(-Math.abs(v)));
  const logJoint = grid.map(
    (v) => logNormal(v, 0, 1.5) + Math.log(10) + 9 * v - 10 * softplus(v),
  );
  const ends = grid.length - 1; // the trapezoid rule counts them half
  const area = logJoint.reduce(
    (sum, log, i) => sum + Math.exp(log) * (i % ends ? 1 : 0.5) * dx, 0);
  const logEvidence = Math.log(area);
  const logPosterior = logJoint.map((log) => log - logEvidence);

  const measure = ({ center, width }) => {
    const found = { elbo: 0, reverse: 0, forward: 0, up: [0, 0], down: [0, 0] };
    grid.forEach((v, i) => {
      const logQ = logNormal(v, center, width);
      const [q, p] = [dx * Math.exp(logQ), dx * Math.exp(logPosterior[i])];
      const far = (v - center) / width;
      const score = [far / width, far ** 2 - 1]; // by center and log width
      found.elbo += q * (logJoint[i] - logQ);
      found.reverse += q * (logQ - logPosterior[i]);
      found.forward += p * (logPosterior[i] - logQ);
      score.forEach((s, k) => {
        found.up[k] += q * s * (logJoint[i] - logQ - 1); // gradient of the ELBO
        found.down[k] += p * s; // minus the gradient of the forward KL
      });
    });
    return found;
  };

  const left = panel(figure, {
    says: "The posterior and the guide. The numbers stand below.",
    x: [-4, 6], y: [0, 0.65], xlabel: "θ", ylabel: "density",
  });
  const fine = span(-4, 6, 251);
  const inFine = fine.map((v) => Math.round((v + 16) / dx));
  const posterior = left.curve("exact");
  const shade = left.curve("fit shade");
  const guide = left.curve("fit");
  const posteriorName = left.text("exact");
  const guideName = left.text("fit", "end");
  const right = panel(figure, {
    says: "ELBO, divergence and their sum at the last moves.",
    x: [0, 100], y: [-14, 12], xlabel: "moves and steps", ylabel: "nats", xticks: [],
  });
  const sumLine = right.curve("third wide");
  const evidenceLine = right.curve("exact");
  const lines = { elbo: right.curve("fit"), kl: right.curve("other") };
  const names = {
    elbo: right.text("fit", "end"), kl: right.text("other", "end"),
    evidence: right.text("exact", "end"), sum: right.text("third", "end"),
  };
  const past = [];

  const center = slider(figure, "center", {
    label: "center m", min: -2, max: 5, step: 0.01, value: -1, shows: (v) => number(v),
  });
  const width = slider(figure, "width", {
    label: "width s", min: 0.2, max: 2, step: 0.01, value: Math.exp(0.5),
    shows: (v) => number(v),
  });
  const move = (away) => ({
    center: state.center + 0.05 * away[0], width: state.width * Math.exp(0.05 * away[1]),
  });
  const climb = (count, seconds) => animate(figure, count, seconds, () => {
    const found = measure(state);
    Object.assign(state, move(state.forward ? found.down : found.up));
    figure.sync.center();
    figure.sync.width();
    figure.update();
  });
  button(figure, "step", "One gradient step", () => climb(1, 0.01));
  button(figure, "climb", "Climb 80 steps", () => climb(80, 3));
  button(figure, "reset", "Back to the start", () => {
    past.length = 0;
    set(figure, { center: -1, width: Math.exp(0.5) });
  });
  toggle(figure, "forward", "forward KL(p ‖ q) instead");
  const middle = left.handle("fit", (at) => set(figure, { center: center.clamp(at) }));
  const side = left.handle("fit small", (at) =>
    set(figure, { width: width.clamp(Math.abs(at - state.center)) }));

  figure.update = (changed = []) => {
    if (changed.includes("forward")) past.length = 0;
    const found = measure(state);
    const kl = state.forward ? found.forward : found.reverse;
    past.push({ elbo: found.elbo, kl, sum: found.elbo + kl });
    if (past.length > 101) past.shift();
    const density = (v) => Math.exp(logNormal(v, state.center, state.width));
    const peak = density(state.center);
    left.range("y", 0, Math.max(0.65, 1.15 * peak));
    posterior(fine, inFine.map((i) => Math.exp(logPosterior[i])));
    for (const draw of [guide, shade]) draw(fine, fine.map(density));
    middle(state.center, peak);
    side(state.center + state.width, density(state.center + state.width));
    posteriorName(2.75, 0.36, "posterior");
    guideName(state.center - 0.9 * state.width, 0.8 * peak, "guide");
    const xs = past.map((_, i) => i);
    const lows = past.map((then) => Math.min(then.elbo, then.sum));
    const highs = past.map((then) => Math.max(then.kl, then.sum));
    const [low, high] = [Math.min(-14, ...lows), Math.max(12, ...highs)];
    right.range("y", 1.05 * low, 1.05 * high);
    for (const name of ["elbo", "kl"]) lines[name](xs, past.map((then) => then[name]));
    sumLine(xs, past.map((then) => then.sum));
    evidenceLine([0, 100], [logEvidence, logEvidence]);
    const above = (high - low) / 40;
    const symbol = state.forward ? "KL(p ‖ q)" : "KL";
    names.kl(99, Math.max(kl, 0) + above, symbol);
    names.elbo(99, Math.min(found.elbo, logEvidence - 1) - 3.6 * above, "ELBO");
    const sum = found.elbo + kl;
    names.evidence(99, logEvidence + 0.8 * above, state.forward ? "log p(D)"
      : "sum = log p(D)");
    names.sum(99, sum + 0.8 * above, state.forward ? "sum" : "");
    const verdict = state.forward ? "which changes: the identity needs the reverse KL"
      : "which is log p(D), wherever the guide is";
    say(figure, `ELBO ${number(found.elbo, 3)} + ${symbol} ${number(kl, 3)} = ` +
      `${number(sum, 3)}, ${verdict}.`, {
      center: state.center, width: state.width, elbo: found.elbo,
      reverse: found.reverse, forward: found.forward, sum,
    });
  };
});
