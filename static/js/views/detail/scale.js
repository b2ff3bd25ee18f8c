// The time axis of the Timeline: moments to places between 0 and 1, long silences folded.

const LEAST_FOLD_SECS = 5;
const FOLD_SHARE = 0.2;
const FOLDED_WIDTH = 0.05;

/**
 * Gaps between consecutive moments that take more than a fifth of the whole time: [{from, to}]. `moments` is ascending
 * (epoch seconds).
 */
export function silences(moments) {
  const span = moments.at(-1) - moments[0];
  const gaps = [];
  for (let at = 1; at < moments.length; at += 1) {
    const gap = moments[at] - moments[at - 1];
    if (gap > LEAST_FOLD_SECS && gap > span * FOLD_SHARE) gaps.push({ from: moments[at - 1], to: moments[at] });
  }
  return gaps;
}

/** Gives `place(moment)` between 0 and 1 for a time from `from` to `to`, in which `folds` are narrow. */
export function scaleOf(from, to, folds) {
  const hidden = folds.reduce((sum, fold) => sum + fold.to - fold.from, 0);
  const open = Math.max(to - from - hidden, 1e-6);
  const width = Math.min(FOLDED_WIDTH, 0.5 / Math.max(folds.length, 1));
  const perSecond = (1 - width * folds.length) / open;
  return (moment) => {
    let place = 0;
    let at = from;
    for (const fold of folds) {
      if (moment <= fold.from) break;
      place += (fold.from - at) * perSecond;
      place += width * Math.min(1, (moment - fold.from) / (fold.to - fold.from));
      at = Math.min(fold.to, moment);
    }
    return Math.min(1, Math.max(0, place + (Math.max(moment, at) - at) * perSecond));
  };
}
