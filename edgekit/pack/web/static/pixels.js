// A file to pixels as edgekit reads one: turned as its EXIF says, what is transparent white, colours as they are stored.

// By their first bytes; how browsers turn and colour files of other formats differs, from edgekit and among themselves.
const READ = { JPEG: [0xff, 0xd8, 0xff], PNG: [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a] };
const LEAST_SIDE = 2;
const MOST_PIXELS = 40e6;
const REDUCTIONS = [1, 2, 4, 8];

/** {data: Uint8Array of RGB, width, height, note} of an image file; what is above the limit is halved until it is not. */
export async function pixelsOf(file) {
  const first = new Uint8Array(await file.slice(0, 8).arrayBuffer());
  if (!Object.values(READ).some((bytes) => bytes.every((byte, at) => byte === first[at]))) {
    throw new Error(`This is none of what is read here: ${Object.keys(READ).join(", ")}. Save it as one of these.`);
  }
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" }).catch(() => {
    throw new Error("This is no image that the browser can read, or it is damaged or too large.");
  });
  const whole = `${bitmap.width} x ${bitmap.height} pixels`;
  const by = REDUCTIONS.find((factor) => bitmap.width * bitmap.height <= MOST_PIXELS * factor ** 2);
  if (Math.min(bitmap.width, bitmap.height) < LEAST_SIDE || !by) {
    bitmap.close();
    throw new Error(`${whole}; allowed: ${LEAST_SIDE} or more a side, at most 2560 megapixels.`);
  }
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.ceil(side / by));
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; to < data.length; from += 4, to += 3) {
    data[to] = rgba[from];
    data[to + 1] = rgba[from + 1];
    data[to + 2] = rgba[from + 2];
  }
  return { data, width, height, note: by > 1 ? `${whole} are above the limit: read at 1/${by} of that.` : null };
}
