//! An input as a script: a header and records of eight bytes, so that the fuzzer's cuts and crossings keep their meaning.

/// Bytes of a record.
pub const RECORD: usize = 8;

/// A reader of bytes that never ends: zeros follow.
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
    /// The next byte.
    pub fn u8(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from(self.u8()) | u16::from(self.u8()) << 8
    }

    /// The index of one of `n` things, by one byte; 0 when there are none.
    pub fn of(&mut self, n: usize) -> usize {
        usize::from(self.u8()) % n.max(1)
    }

    /// One of `n` things, by two bytes.
    pub fn of_many(&mut self, n: usize) -> usize {
        usize::from(self.u16()) % n.max(1)
    }

    /// A number: small ones half of the time, else one of those where arithmetic breaks.
    pub fn number(&mut self) -> i64 {
        const EDGES: [i64; 24] = [
            0,
            -1,
            1,
            -2,
            i64::MAX,
            i64::MIN,
            i64::MAX - 1,
            i64::MIN + 1,
            1 << 31,
            (1 << 31) - 1,
            1 << 32,
            (1 << 32) - 1,
            1 << 40,
            (1 << 40) + 1,
            1 << 53,
            1 << 61,
            1 << 62,
            (1 << 62) + 1,
            -(1 << 31),
            -(1 << 62),
            4096,
            4097,
            8192,
            (1 << 20) + 1,
        ];
        match self.u8() {
            n @ ..100 => i64::from(n % 17),
            n @ 100..128 => i64::from(n) - 100,
            n @ 128..144 => -i64::from(n - 128),
            n => EDGES[usize::from(n) % EDGES.len()],
        }
    }

    /// True half of the time.
    pub fn coin(&mut self) -> bool {
        self.u8() & 1 == 1
    }
}
