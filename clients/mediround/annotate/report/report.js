'use strict';
// An item is [item_id, page, error code, least score, disagreement, has a picture, rounds]; a round is
// [structure, status, score, round referred to]. Every text is set as text, never as HTML.
const data = JSON.parse(document.getElementById('data').textContent);
const PAGE = 200;
const KEY = 'mediround.review.' + data.run_key;
const byId = (name) => document.getElementById(name);
let verdicts = {}, order = [], first = 0, selected = 0;
try { verdicts = JSON.parse(localStorage.getItem(KEY)) || {}; } catch { verdicts = {}; }

function element(tag, words, kind) {
  const made = document.createElement(tag);
  if (words !== undefined) made.textContent = words;
  if (kind) made.className = kind;
  return made;
}

const nullsLast = (value) => (value === null ? Infinity : value);
const SORTS = {
  order: () => 0,
  score: (a, b) => nullsLast(a[3]) - nullsLast(b[3]) || 0,
  disagreement: (a, b) => nullsLast(a[4] === null ? null : -a[4]) - nullsLast(b[4] === null ? null : -b[4]) || 0,
  structure: (a, b) => structure(a).localeCompare(structure(b)),
  failure: (a, b) => b[2].localeCompare(a[2]),
};
const structure = (item) => (item[6].length ? data.structures[item[6][0][0]] : '');

const STATUSES = {
  all: () => true,
  ok: (item) => !item[2],
  failed: (item) => item[2] !== '',
  'without a mask': (item) => item[6].some((round) => round[1] !== 'mask'),
  accepted: (item) => verdictOf(item) === 'accept',
  rejected: (item) => verdictOf(item) === 'reject',
  undecided: (item) => !verdictOf(item),
};
const verdictOf = (item) => (verdicts[item[0]] || {}).verdict;

function choose() {
  const wanted = byId('structure').value, status = STATUSES[byId('status').value];
  order = data.items.filter((item) => status(item)
    && (wanted === '' || item[6].some((round) => round[0] === Number(wanted))));
  order = order.map((item, at) => [item, at])
    .sort((a, b) => SORTS[byId('sort').value](a[0], b[0]) || a[1] - b[1]).map((pair) => pair[0]);
  first = selected = 0;
  show();
}

function show() {
  const last = Math.min(first + PAGE, order.length);
  byId('count').textContent = order.length ? `${first + 1} to ${last} of ${order.length}` : 'none';
  byId('sheet').replaceChildren(...order.slice(first, last).map(tile));
  mark();
}

function tile(item, at) {
  const made = element('div', undefined, 'tile');
  made.addEventListener('click', () => { selected = first + at; mark(); });
  if (item[5]) {
    const picture = element('img');
    picture.loading = 'lazy';
    picture.src = `pictures/${item[0].slice(0, 2)}/${item[0]}.jpg`;
    made.append(picture);
  } else {
    made.append(element('div', 'no picture', 'note'));
  }
  item[6].forEach((round, number) => {
    const score = round[2] === null ? '' : ` ${round[2].toFixed(2)}`;
    const chain = round[3] === null ? '' : ` ↳ ${round[3]}`;
    const status = round[1] === 'mask' ? '' : ` (${round[1].replace('_', ' ')})`;
    made.append(element('div', `${number} ${data.structures[round[0]]}${score}${status}${chain}`));
  });
  if (item[2]) made.append(element('div', item[2]));
  if (item[4] !== null) made.append(element('div', `disagreement ${item[4].toFixed(3)}`, 'note'));
  const details = element('a', 'details');
  details.href = `page-${String(item[1]).padStart(4, '0')}.html#i${item[0]}`;
  made.append(details, element('div', '', 'comment'));
  return made;
}

function mark() {
  [...byId('sheet').children].forEach((made, at) => {
    const item = order[first + at], kept = verdicts[item[0]] || {};
    made.className = `tile ${kept.verdict || ''} ${first + at === selected ? 'selected' : ''}`;
    made.querySelector('.comment').textContent = kept.comment || '';
  });
  const chosen = byId('sheet').children[selected - first];
  if (chosen) chosen.scrollIntoView({block: 'nearest'});
}

function decide(verdict) {
  const item = order[selected];
  if (!item) return;
  const kept = verdicts[item[0]] || {comment: ''};
  if (kept.verdict === verdict) delete verdicts[item[0]];
  else verdicts[item[0]] = {verdict, comment: kept.comment};
  keep();
}

function keep() {
  try { localStorage.setItem(KEY, JSON.stringify(verdicts)); byId('kept').textContent = ''; }
  catch { byId('kept').textContent = 'not kept by this browser: export before you leave'; }
  mark();
}

function comment() {
  const item = order[selected];
  if (!item) return;
  byId('words').value = (verdicts[item[0]] || {}).comment || '';
  byId('dialog').showModal();
}

function commented() {
  const item = order[selected], kept = verdicts[item[0]] || {verdict: 'reject'};
  verdicts[item[0]] = {verdict: kept.verdict, comment: byId('words').value.slice(0, 2000)};
  keep();
}

function review() {
  const known = new Set(data.items.map((item) => item[0]));
  const items = Object.keys(verdicts).filter((name) => known.has(name))
    .map((name) => ({item_id: name, verdict: verdicts[name].verdict, comment: verdicts[name].comment || ''}));
  return JSON.stringify({format: 1, run_key: data.run_key, items}, null, 1);
}

function save() {
  const link = element('a');
  link.href = URL.createObjectURL(new Blob([review()], {type: 'application/json'}));
  link.download = 'review.json';
  link.click();
  URL.revokeObjectURL(link.href);
}

function move(steps) {
  selected = Math.max(0, Math.min(order.length - 1, selected + steps));
  const page = Math.floor(selected / PAGE) * PAGE;
  if (page !== first) { first = page; show(); } else mark();
}

const columns = () => getComputedStyle(byId('sheet')).gridTemplateColumns.split(' ').length;
const KEYS = {
  ArrowRight: () => move(1), ArrowLeft: () => move(-1), ArrowDown: () => move(columns()),
  ArrowUp: () => move(-columns()), PageDown: () => move(PAGE), PageUp: () => move(-PAGE),
  a: () => decide('accept'), r: () => decide('reject'), c: comment,
};
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || byId('dialog').open || !KEYS[event.key]) return;
  if (event.target.tagName === 'SELECT' && event.key.startsWith('Arrow')) return;
  event.preventDefault();
  KEYS[event.key]();
});

function options(select, pairs) {
  pairs.forEach(([value, words]) => {
    const made = element('option', words);
    made.value = value;
    byId(select).append(made);
  });
  byId(select).addEventListener('change', () => { byId(select).blur(); choose(); });
}
options('sort', Object.keys(SORTS).map((name) => [name, name]));
options('structure', [['', 'all structures'], ...data.structures.map((name, at) => [at, name])]);
options('status', Object.keys(STATUSES).map((name) => [name, name]));
byId('before').addEventListener('click', () => move(-PAGE));
byId('after').addEventListener('click', () => move(PAGE));
byId('export').addEventListener('click', save);
byId('dialog').addEventListener('close', () => { if (byId('dialog').returnValue === 'keep') commented(); });
choose();
