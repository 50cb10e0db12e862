//! What a TLS handshake tells before it closes the curtain.

use gatewatch_event::Tls;

use crate::protocol::tls::{self, Front, Known};

/// Most bytes of a hello that are put together: post-quantum keys make two kilobytes, some clients' tickets more.
const HELLO_MAX: usize = 8 << 10;

/// A connection that speaks TLS, until both hellos are read.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    known: Known,
    received: Side,
    sent: Side,
}

#[derive(Debug, Default)]
struct Side {
    kept: Vec<u8>,
    told: bool,
    over: bool,
}

impl Handshake {
    pub(super) fn held(&self) -> usize {
        self.received.kept.capacity() + self.sent.kept.capacity()
    }

    /// Reads on; true when nothing more will be told. `hole`: bytes that follow were not seen.
    pub(super) fn feed(&mut self, received: bool, bytes: &[u8], hole: bool) -> bool {
        let side = if received { &mut self.received } else { &mut self.sent };
        if !side.over {
            let room = HELLO_MAX.saturating_sub(side.kept.len());
            side.kept.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or(bytes));
            let last = hole || side.kept.len() >= HELLO_MAX;
            match tls::read(&side.kept, side.kept.len() + usize::from(hole)) {
                Front::Hello(hello) if hello.whole || last => {
                    self.known.add(hello);
                    (side.told, side.over) = (true, true);
                }
                Front::Hello(_) | Front::Maybe if !last => {}
                Front::Hello(_) | Front::Maybe | Front::No | Front::Records { .. } => side.over = true,
            }
            if side.over {
                side.kept = Vec::new();
            }
        }
        self.received.over && self.sent.over
    }

    /// What was told, if anything was.
    pub(super) fn told(&mut self) -> Option<Tls> {
        for side in [&mut self.received, &mut self.sent] {
            // A hello that ends in the middle tells as much.
            if !std::mem::replace(&mut side.over, true)
                && let Front::Hello(hello) = tls::read(&side.kept, side.kept.len())
            {
                self.known.add(hello);
                side.told = true;
            }
        }
        (self.received.told || self.sent.told).then(|| self.known.told())
    }
}
