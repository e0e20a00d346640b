//! Rows in order, of whatever number: sorted pieces in a file without a name, merged when they are read.
//!
//! Joining settles IPIs in no order of time, and a long run has more of them than memory holds. Rows of a fixed size are gathered
//! in memory; a full piece is sorted and appended to the file. The crates that do this keep a named file open for each piece, which
//! a kill leaves behind and a long trace has too many of.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Rows of a piece.
const PIECE: usize = 1 << 20;

/// Rows that are read of a piece at a time.
const AHEAD: usize = 1 << 10;

/// What can be sorted: plain bytes with an order.
pub trait Row: FromBytes + IntoBytes + Immutable + Copy + Ord {}

impl<T: FromBytes + IntoBytes + Immutable + Copy + Ord> Row for T {}

/// Takes rows in any order.
#[derive(Debug)]
pub struct Sorter<T> {
    rows: Vec<T>,
    piece: usize,
    file: Option<File>,
    /// Bytes in the file, and where each piece of it ends.
    ends: Vec<u64>,
    /// The first error: rows come through closures that can't fail.
    failed: Option<io::Error>,
}

impl<T: Row> Default for Sorter<T> {
    fn default() -> Self {
        Sorter::with_piece(PIECE)
    }
}

impl<T: Row> Sorter<T> {
    fn with_piece(piece: usize) -> Self {
        Sorter { rows: Vec::new(), piece, file: None, ends: Vec::new(), failed: None }
    }

    /// Adds a row. What goes wrong with the file is told by [`Sorter::sorted`].
    pub fn push(&mut self, row: T) {
        self.rows.push(row);
        if self.rows.len() >= self.piece && self.failed.is_none() {
            self.failed = self.spill().err();
        }
        if self.failed.is_some() {
            self.rows.clear();
        }
    }

    fn spill(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile()?);
        }
        self.rows.sort_unstable();
        let start = self.ends.last().copied().unwrap_or(0);
        if let Some(file) = &self.file {
            file.write_all_at(self.rows.as_bytes(), start)?;
        }
        self.ends.push(start + size_of_val(self.rows.as_slice()) as u64);
        self.rows.clear();
        Ok(())
    }

    /// All rows, the least first.
    ///
    /// # Errors
    ///
    /// The file's, of any step before this one.
    pub fn sorted(mut self) -> io::Result<Sorted<T>> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.rows.sort_unstable();
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let pieces = starts.zip(&self.ends).map(|(at, end)| Piece { rows: Vec::new(), next: 0, at, end: *end });
        let mut sorted = Sorted { pieces: pieces.collect(), file: self.file, heads: BinaryHeap::new() };
        // What stayed in memory is a piece that is read already.
        sorted.pieces.push(Piece { rows: self.rows, next: 0, at: 0, end: 0 });
        for piece in 0..sorted.pieces.len() {
            sorted.fill(piece)?;
        }
        Ok(sorted)
    }
}

#[derive(Debug)]
struct Piece<T> {
    rows: Vec<T>,
    next: usize,
    at: u64,
    end: u64,
}

/// Gives rows in order.
#[derive(Debug)]
pub struct Sorted<T> {
    file: Option<File>,
    pieces: Vec<Piece<T>>,
    heads: BinaryHeap<Reverse<(T, usize)>>,
}

impl<T: Row> Sorted<T> {
    /// Puts the next row of a piece among the heads.
    fn fill(&mut self, index: usize) -> io::Result<()> {
        let Some(piece) = self.pieces.get_mut(index) else { return Ok(()) };
        if piece.next >= piece.rows.len() && piece.at < piece.end {
            let left = (piece.end - piece.at) / size_of::<T>() as u64;
            piece.rows.clear();
            piece.rows.resize(left.min(AHEAD as u64) as usize, T::new_zeroed());
            if let Some(file) = &self.file {
                file.read_exact_at(piece.rows.as_mut_bytes(), piece.at)?;
            }
            piece.at += size_of_val(piece.rows.as_slice()) as u64;
            piece.next = 0;
        }
        if let Some(row) = piece.rows.get(piece.next) {
            piece.next += 1;
            self.heads.push(Reverse((*row, index)));
        }
        Ok(())
    }

    /// The least row that was not given yet, left in its place.
    pub fn peek(&self) -> Option<&T> {
        self.heads.peek().map(|Reverse((row, _))| row)
    }

    /// Takes it.
    ///
    /// # Errors
    ///
    /// The file's.
    #[expect(clippy::should_implement_trait, reason = "an iterator's items are not whole results")]
    pub fn next(&mut self) -> io::Result<Option<T>> {
        let Some(Reverse((row, piece))) = self.heads.pop() else { return Ok(None) };
        self.fill(piece)?;
        Ok(Some(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_in_order_whether_they_fit_into_memory_or_not() {
        for (count, piece) in [(0u64, 10), (1, 10), (10, 10), (11, 10), (5000, 10), (50_000, 3000)] {
            let mut sorter = Sorter::with_piece(piece);
            let row = |n: u64| [n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 1000, n];
            (0..count).for_each(|n| sorter.push(row(n)));
            assert_eq!(sorter.file.is_some(), count >= piece as u64);
            let mut sorted = sorter.sorted().unwrap();
            let mut all = Vec::new();
            while let Some(row) = sorted.next().unwrap() {
                all.push(row);
            }
            let mut expected: Vec<[u64; 2]> = (0..count).map(row).collect();
            expected.sort_unstable();
            assert_eq!(all, expected, "{count} rows in pieces of {piece}");
        }
    }
}
