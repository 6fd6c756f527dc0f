//! Painting of characters as pixels.

use arch_contract::Framebuffer;
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use super::text::Cell;

const HEIGHT: RasterHeight = RasterHeight::Size16;
const WEIGHT: FontWeight = FontWeight::Regular;
/// Character shown for one that the font lacks.
const UNKNOWN: char = '?';

/// Red, green and blue of the text colours: the eight of ECMA-48, then their bright versions.
const COLORS: [u32; 16] = [
    0x60_60_60, 0xd0_50_50, 0x50_d0_50, 0xd0_c0_40, 0x60_90_f0, 0xd0_60_d0, 0x40_d0_d0, 0xd0_d0_d0, 0x90_90_90,
    0xff_80_80, 0x80_ff_80, 0xff_f0_70, 0x90_b8_ff, 0xff_90_ff, 0x80_ff_ff, 0xff_ff_ff,
];

/// A screen divided into character cells.
pub struct Painter {
    screen: Framebuffer,
    cell: (usize, usize),
}

/// How a cell is painted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// As it is.
    Plain,
    /// In inverse, as the cursor is shown.
    Cursor,
}

impl Painter {
    /// Creates a painter for a screen.
    pub fn new(screen: Framebuffer) -> Self {
        Self { screen, cell: (get_raster_width(WEIGHT, HEIGHT), HEIGHT.val()) }
    }

    /// Returns the number of columns and of rows.
    pub fn size(&self) -> (usize, usize) {
        (self.screen.width / self.cell.0, self.screen.height / self.cell.1)
    }

    fn put(&self, x: usize, y: usize, color: u32) {
        let pixel = self.screen.start + (y * self.screen.stride + x) * size_of::<u32>();
        // SAFETY: `cell` paints only cells that lie wholly on the screen, so the pixel is in the
        // framebuffer, which belongs to the console.
        unsafe { (pixel as *mut u32).write_volatile(color) };
    }

    /// Paints a cell. A position outside the screen is ignored.
    pub fn cell(&self, row: usize, column: usize, cell: Cell, look: Look) {
        let (width, height) = self.cell;
        let (columns, rows) = self.size();
        if row >= rows || column >= columns {
            return;
        }
        let raster = get_raster(cell.character, WEIGHT, HEIGHT).or_else(|| get_raster(UNKNOWN, WEIGHT, HEIGHT));
        let color = COLORS[usize::from(cell.color) % COLORS.len()];
        for y in 0..height {
            for x in 0..width {
                let drawn = raster.as_ref().and_then(|raster| raster.pixel(x, y)).unwrap_or(0);
                let weight = u32::from(match look {
                    Look::Plain => drawn,
                    Look::Cursor => u8::MAX - drawn,
                });
                self.put(column * width + x, row * height + y, dimmed(color, weight));
            }
        }
    }
}

/// Returns a colour scaled to `weight` parts of 255.
fn dimmed(color: u32, weight: u32) -> u32 {
    let part = |shift: u32| ((color >> shift & 0xff) * weight / 0xff) << shift;
    part(16) | part(8) | part(0)
}
