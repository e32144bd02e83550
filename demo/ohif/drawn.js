// What a viewport of OHIF shows of a segmentation, asked at the centre of each pixel of a frame.
// Arguments: SOP Instance UID; position, row and column step in mm, as three numbers each; Rows; Columns; and, of an
// asynchronous script, what is called in the end: with the number of the slice and a string of 0 and 1, row by row.
const [sop, position, row, column, rows, columns, finished] = arguments;
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const viewport = cornerstone.getRenderingEngines()[0].getViewports()[0];
const canvas = viewport.getCanvas();

function drawn() {
  const scale = canvas.width / canvas.clientWidth;
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let bits = '';
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const world = position.map((start, axis) => start + c * row[axis] + r * column[axis]);
      const [x, y] = viewport.worldToCanvas(world).map((place) => Math.round(place * scale));
      const colour = data.slice(4 * (y * canvas.width + x), 4 * (y * canvas.width + x) + 3);
      bits += Math.max(...colour) - Math.min(...colour) > 20 ? '1' : '0'; // the image itself is grey
    }
  }
  return bits;
}

(async () => {
  const slice = viewport.getImageIds().findIndex((id) => id.includes(sop));
  if (slice < 0) return finished([-1, '']);
  if (!viewport.getCurrentImageId()?.includes(sop)) {
    const jump = cornerstone.utilities.jumpToSlice ?? cornerstoneTools.utilities.jumpToSlice;
    await jump(viewport.element, { imageIndex: slice });
  }
  await pause(1000); // the overlay is drawn after its image
  viewport.render();
  await pause(500);
  return finished([slice, drawn()]);
})().catch((error) => finished([-2, `${error}`]));
