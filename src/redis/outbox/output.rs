//! Bytes that wait to be written, in pieces.
//!
//! One buffer that grows takes twice what it holds, and while it is copied three times; pieces take
//! what they hold. Long ones may be shared by many clients. Nothing here knows a socket or a bound.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};

/// The longest piece that short ones are gathered into.
const PIECE_BYTES: usize = 64 * 1024;
/// Shorter bytes are not shared but copied: a piece of their own would cost more.
const SHARED_BYTES_MIN: usize = 4 * 1024;
/// A buffer larger than this is given back once it is empty.
const KEPT_BYTES_MAX: usize = 1024;
/// Places for pieces beyond this are given back once there are none.
const KEPT_PIECES_MAX: usize = 64;

/// Bytes in the order in which they are to be written.
#[derive(Debug, Default)]
pub(in crate::redis) struct Output {
    pieces: VecDeque<Bytes>,
    /// What stands in `pieces`.
    bytes: usize,
    /// Comes after all pieces; what is short is gathered here.
    last: BytesMut,
}

impl Output {
    /// How many bytes wait.
    pub(in crate::redis) fn len(&self) -> usize {
        self.bytes + self.last.len()
    }

    /// Whether nothing waits.
    pub(in crate::redis) fn is_empty(&self) -> bool {
        self.bytes == 0 && self.last.is_empty()
    }

    /// Appends a copy.
    pub(in crate::redis) fn append(&mut self, mut bytes: &[u8]) {
        loop {
            let room = PIECE_BYTES.saturating_sub(self.last.len());
            let (now, rest) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.grow(now.len());
            self.last.extend_from_slice(now);
            if rest.is_empty() {
                return;
            }
            self.close();
            bytes = rest;
        }
    }

    /// Appends bytes that others may have, too.
    pub(in crate::redis) fn share(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARED_BYTES_MIN {
            return self.append(bytes);
        }
        self.close();
        self.push(bytes.clone());
    }

    /// Takes the first piece.
    pub(in crate::redis) fn pop(&mut self) -> Option<Bytes> {
        match self.pieces.pop_front() {
            Some(piece) => {
                self.bytes -= piece.len();
                Some(piece)
            }
            None if self.last.is_empty() => None,
            None => Some(std::mem::take(&mut self.last).freeze()),
        }
    }

    /// All that waits, if it stands in one piece.
    pub(in crate::redis) fn only(&self) -> Option<&[u8]> {
        self.pieces.is_empty().then_some(&self.last)
    }

    /// The first pieces, as many as there is room for.
    pub(in crate::redis) fn slices<'a, 'b>(
        &'a self,
        room: &'b mut [IoSlice<'a>],
    ) -> &'b [IoSlice<'a>] {
        let pieces = self.pieces.iter().map(Bytes::as_ref);
        let all = pieces.chain(std::iter::once(&*self.last));
        let mut count = 0;
        for (place, piece) in room.iter_mut().zip(all) {
            *place = IoSlice::new(piece);
            count += 1;
        }
        room.get(..count).unwrap_or_default()
    }

    /// The first bytes have been written.
    pub(in crate::redis) fn advance(&mut self, mut bytes: usize) {
        while let Some(piece) = self.pieces.front_mut() {
            let now = bytes.min(piece.len());
            self.bytes -= now;
            bytes -= now;
            if now < piece.len() {
                return piece.advance(now);
            }
            self.pieces.pop_front();
        }
        if self.pieces.capacity() > KEPT_PIECES_MAX {
            self.pieces = VecDeque::new();
        }
        if bytes < self.last.len() {
            return self.last.advance(bytes);
        }
        if self.last.capacity() > KEPT_BYTES_MAX {
            self.last = BytesMut::new();
        } else {
            self.last.clear();
        }
    }

    /// Makes room in the last piece: twice what it had, and never more than a piece.
    fn grow(&mut self, more: usize) {
        let wanted = self.last.len() + more;
        if wanted <= self.last.capacity() || self.last.try_reclaim(more) {
            return;
        }
        let room = wanted.max((2 * self.last.capacity()).min(PIECE_BYTES));
        let mut larger = BytesMut::with_capacity(room);
        larger.extend_from_slice(&self.last);
        self.last = larger;
    }

    /// Ends the last piece.
    fn close(&mut self) {
        if self.last.is_empty() {
            return;
        }
        let last = std::mem::take(&mut self.last);
        // What a piece was to become larger for is given back.
        let is_loose = last.capacity() - last.len() > last.len() / 8;
        let piece = if is_loose {
            Bytes::copy_from_slice(&last)
        } else {
            last.freeze()
        };
        self.push(piece);
    }

    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push_back(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes everything, `step` bytes at a time.
    fn written(output: &mut Output, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !output.is_empty() {
            let mut room = [IoSlice::new(&[]); 3];
            let mut taken = 0;
            for slice in output.slices(&mut room) {
                let now = slice.len().min(step - taken);
                all.extend_from_slice(&slice[..now]);
                taken += now;
            }
            assert!(taken > 0);
            output.advance(taken);
        }
        all
    }

    #[test]
    fn bytes_come_out_in_the_order_in_which_they_went_in() {
        for step in [1000, 4096, 70_000, usize::MAX] {
            let (mut output, mut wanted) = (Output::default(), Vec::new());
            for round in 0..40_usize {
                let short = vec![u8::try_from(round).unwrap(); round * 777];
                let long = Bytes::from(vec![255 - u8::try_from(round).unwrap(); round * 1000]);
                output.append(&short);
                output.share(&long);
                wanted.extend_from_slice(&short);
                wanted.extend_from_slice(&long);
                assert_eq!(output.len(), wanted.len());
            }
            assert!(written(&mut output, step) == wanted);
            assert_eq!((output.len(), output.pieces.capacity()), (0, 0));
        }
    }

    #[test]
    fn it_takes_the_memory_of_what_it_holds() {
        let mut output = Output::default();
        let mut held = |bytes: &[u8], shared: bool| {
            if shared {
                output.share(&Bytes::copy_from_slice(bytes));
            } else {
                output.append(bytes);
            }
            assert!(output.last.capacity() <= PIECE_BYTES);
            let loose = output.last.capacity() - output.last.len();
            assert!(loose <= PIECE_BYTES);
            assert!(output.pieces.iter().all(|piece| piece.len() <= PIECE_BYTES));
        };
        for round in 0..10_000_usize {
            held(&vec![b'x'; round * 37 % 5000], round % 3 == 0);
        }
        let pieces = output.pieces.len();
        assert!(pieces < output.len() / 2500, "{pieces} pieces");
    }

    #[test]
    fn a_short_answer_leaves_its_buffer_for_the_next() {
        let mut output = Output::default();
        output.append(b"+OK\r\n");
        let place = output.last.as_ptr();
        for _ in 0..100 {
            assert_eq!(output.only(), Some(&b"+OK\r\n"[..]));
            output.advance(5);
            output.append(b"+OK\r\n");
            assert_eq!(output.last.as_ptr(), place);
        }
        output.append(&[0; 2000]);
        output.advance(2005);
        assert_eq!(output.last.capacity(), 0);
    }

    #[test]
    fn what_is_shared_is_not_copied() {
        let bytes = Bytes::from(vec![b'x'; SHARED_BYTES_MIN]);
        let mut output = Output::default();
        output.append(b"before");
        output.share(&bytes);
        output.append(b"after");
        let pieces: Vec<Bytes> = std::iter::from_fn(|| output.pop()).collect();
        assert_eq!(pieces[1].as_ptr(), bytes.as_ptr());
        assert_eq!(pieces.concat().len(), 11 + SHARED_BYTES_MIN);
        assert!(output.is_empty());
    }
}
