//! `Einsum` in the forms that exporters and people write.

use crate::Expect::{self, Carries, Pins};
use crate::Gen;
use crate::common::{A, Build};

/// Operators and their generators.
pub const CASES: &[(&[&str], Gen)] = &[(&["Einsum"], einsum)];

fn node(b: &mut Build, equation: &'static str, inputs: &[&str]) -> String {
    b.op("Einsum", inputs, &[("equation", A::S(equation))])
}

fn einsum(b: &mut Build, _: &str) -> Expect {
    b.opset = b.pick(&[12, 17]);
    let (c, m, t, h) = (b.r(3, 6), b.r(3, 6), b.r(2, 4), b.r(3, 5));
    let (y, ch) = match b.r(0, 15) {
        0 => {
            let (x, w) = (b.channels(&[2, t, c], 2), b.w(&[c, m]));
            (node(b, "ntc,cm->ntm", &[&x, &w]), 2)
        }
        1 => {
            let (x, w) = (b.channels(&[2, c, t], 1), b.w(&[m, c]));
            (node(b, "nct,mc->nmt", &[&x, &w]), 1)
        }
        2 => {
            let (x, w) = (b.channels(&[2, c, t], 1), b.w(&[m, c]));
            (node(b, "mc,nct->nmt", &[&w, &x]), 1)
        }
        3 => {
            let rank = b.r(2, 4);
            let dims = [&[2, t, 3][..rank - 1], &[c]].concat();
            let (x, w) = (b.channels(&dims, rank - 1), b.w(&[c, m]));
            (node(b, "...c,cm->...m", &[&x, &w]), rank - 1)
        }
        4 => {
            let (x, w) = (b.channels(&[2, c], 1), b.w(&[c, m]));
            (node(b, "bi,io", &[&x, &w]), 1)
        }
        // Heads that are not summed over.
        5 => {
            let (x, y) = (b.channels(&[2, h, t, 3], 1), b.channels(&[2, h, 2, 3], 1));
            (node(b, "nhqd,nhkd->nhqk", &[&x, &y]), 1)
        }
        6 => {
            let x = b.channels(&[2, c, t], 1);
            (node(b, "nct->ntc", &[&x]), 2)
        }
        // Two weights in a row.
        7 => {
            let (x, u, w) = (b.channels(&[2, c], 1), b.w(&[c, h]), b.w(&[h, m]));
            (node(b, "nc,cr,rm->nm", &[&x, &u, &w]), 1)
        }
        // A weight for each head.
        8 => {
            let ch = b.r(1, 2);
            let (x, w) = (b.channels(&[2, h, c], ch), b.w(&[h, c, m]));
            let ch = b.r(1, 2);
            (node(b, "nhd,hde->nhe", &[&x, &w]), ch)
        }
        9 => {
            let (x, w) = (b.channels(&[2, c, t], 1), b.w(&[c]));
            (node(b, "nct,c->nct", &[&x, &w]), 1)
        }
        10 => {
            let (x, w) = (b.channels(&[2, c], 1), b.w(&[c, m]));
            (node(b, " nC , Cm -> nm", &[&x, &w]), 1)
        }
        // An axis of size 1 stretches.
        11 => {
            let (x, w) = (b.channels(&[2, c, t], 1), b.w(&[1, c, 1]));
            (node(b, "...ct,...ct->...ct", &[&x, &w]), 1)
        }
        // Batch dimensions that an operand lacks, and an implicit output.
        12 => {
            let (x, w) = (b.channels(&[2, t, c], 2), b.w(&[c, m]));
            (node(b, "...z,zy", &[&x, &w]), 2)
        }
        // Two activations: the summed axis stays whole.
        13 => {
            let (x, y) = (b.channels(&[2, t, c], 2), b.channels(&[2, c, 3], 1));
            let z = node(b, "nik,nkj->nij", &[&x, &y]);
            b.output(&z);
            return Pins;
        }
        14 => {
            let x = b.channels(&[2, c, t], 1);
            let z = node(b, "nct->nt", &[&x]);
            b.output(&z);
            return Pins;
        }
        _ => {
            let x = b.channels(&[2, c, c], 1);
            let z = node(b, "ncc->nc", &[&x]);
            b.sink(&z, 1);
            return Pins;
        }
    };
    b.sink(&y, ch);
    Carries
}
