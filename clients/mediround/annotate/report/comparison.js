// The comparison. A round is [item_id, page of details, round, structure, Dice, kind, score then, score now, area then,
// area now, has a picture].
const KINDS = ['both masks', 'earlier alone', 'later alone', 'other size'];
const moved = (then, now) => (then === null || now === null ? null : now - then);
const scoreMoved = (round) => moved(round[6], round[7]);
const areaMoved = (round) => (round[9] - round[8]) / Math.max(round[8], 1);
const signed = (value, digits) => `${value > 0 ? '+' : ''}${value.toFixed(digits)}`;

function passes(round) {
  const least = numbered('least-apart');
  return (structureChosen() === null || round[3] === structureChosen()) && (least === null || 1 - round[4] >= least);
}

function tile(round) {
  const stem = `compared/${round[0].slice(0, 2)}/${round[0]}-${round[2]}.jpg`;
  const score = scoreMoved(round) === null ? '' : `score ${round[6].toFixed(2)} → ${round[7].toFixed(2)}`;
  const made = [
    pictured(round[10] && stem),
    element('div', `${round[2]} ${data.structures[round[3]]}: disagreement ${(1 - round[4]).toFixed(3)}`),
    element('div', `${score} area ${round[8]} → ${round[9]} (${signed(100 * areaMoved(round), 0)} %)`, 'note'),
  ];
  if (round[5]) made.push(element('div', KINDS[round[5]]));
  if (round[1] !== null) made.push(linked(round[0], round[1]));
  return made;
}

begin({
  entries: data.rounds,
  sorts: {
    disagreement: ascending((round) => round[4]),
    'score lost': ascending(scoreMoved),
    'score gained': ascending((round) => (scoreMoved(round) === null ? null : -scoreMoved(round))),
    'area change': (a, b) => Math.abs(areaMoved(b)) - Math.abs(areaMoved(a)),
    structure: (a, b) => data.structures[a[3]].localeCompare(data.structures[b[3]]) || a[4] - b[4],
  },
  statuses: {
    all: () => true,
    ...Object.fromEntries(KINDS.map((name, at) => [name, (round) => round[5] === at])),
  },
  passes, tile,
});
