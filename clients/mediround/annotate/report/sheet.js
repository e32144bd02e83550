// The contact sheet. An item is [item_id, page, error code, disagreement, has a picture, rounds]; a round is
// [structure, status, score, round referred to (-1: a given mask)].
const STATUS_NAMES = ['mask', 'no mask', 'not asked', 'failed'];
const GIVEN = -1;
const chosenRounds = (item) => item[5].filter((round) => structureChosen() === null || round[0] === structureChosen());
const leastScore = (item) => {
  const scores = chosenRounds(item).map((round) => round[2]).filter((score) => score !== null);
  return scores.length ? Math.min(...scores) : null;
};
const firstStructure = (item) => (item[5].length ? data.structures[item[5][0][0]] : '');
const codes = [...new Set(data.items.map((item) => item[2]).filter((code) => code))].sort().slice(0, 50);

function passes(item) {
  const score = leastScore(item), most = numbered('most-score'), least = numbered('least-apart');
  return chosenRounds(item).length > 0
    && (most === null || (score !== null && score <= most))
    && (least === null || (item[3] !== null && item[3] >= least));
}

function tile(item) {
  const made = [pictured(item[4] && `pictures/${item[0].slice(0, 2)}/${item[0]}.jpg`)];
  item[5].forEach((round, number) => {
    const score = round[2] === null ? '' : ` ${round[2].toFixed(2)}`;
    const chain = round[3] === null ? '' : round[3] === GIVEN ? ' ↳ given mask' : ` ↳ ${round[3]}`;
    const status = round[1] === 0 ? '' : ` (${STATUS_NAMES[round[1]]})`;
    made.push(element('div', `${number} ${data.structures[round[0]]}${score}${status}${chain}`));
  });
  if (item[2]) made.push(element('div', item[2]));
  if (item[3] !== null) made.push(element('div', `disagreement ${item[3].toFixed(3)}`, 'note'));
  made.push(linked(item[0], item[1]));
  return made;
}

begin({
  entries: data.items,
  sorts: {
    order: () => 0,
    score: ascending(leastScore),
    disagreement: ascending((item) => (item[3] === null ? null : -item[3])),
    structure: (a, b) => firstStructure(a).localeCompare(firstStructure(b)),
    failure: (a, b) => b[2].localeCompare(a[2]),
  },
  statuses: {
    all: () => true,
    ok: (item) => !item[2],
    failed: (item) => item[2] !== '',
    'without a mask': (item) => item[5].some((round) => round[1] !== 0),
    ...Object.fromEntries(codes.map((code) => [`failed: ${code}`, (item) => item[2] === code])),
  },
  passes, tile,
});
