// A file to pixels as edgekit reads one: turned as its EXIF says, what is transparent white, colours as they are stored.

const LEAST_SIDE = 2;
const MOST_PIXELS = 40e6;

/** {data: Uint8Array of RGB, width, height} of an image file. */
export async function pixelsOf(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" }).catch(() => {
    throw new Error("This is no image that the browser can read, or it is damaged.");
  });
  const { width, height } = bitmap;
  if (Math.min(width, height) < LEAST_SIDE || width * height > MOST_PIXELS) {
    bitmap.close();
    throw new Error(`${width} x ${height} pixels; allowed: ${LEAST_SIDE} or more a side, at most 40 megapixels.`);
  }
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; to < data.length; from += 4, to += 3) {
    data[to] = rgba[from];
    data[to + 1] = rgba[from + 1];
    data[to + 2] = rgba[from + 2];
  }
  return { data, width, height };
}
