//! Frames made of a held SYN: the SYN once more, and its refusal.

use etherparse::{Ethernet2Header, Ipv4Header, Ipv6Header, TcpHeader};

enum Ip {
    Four(Ipv4Header),
    Six(Ipv6Header),
}

fn read(frame: &[u8]) -> Option<(Ethernet2Header, Ip, TcpHeader)> {
    let (ethernet, rest) = Ethernet2Header::from_slice(frame).ok()?;
    let (ip, rest) = if rest.first()? >> 4 == 4 {
        Ipv4Header::from_slice(rest).map(|(ip, rest)| (Ip::Four(ip), rest)).ok()?
    } else {
        Ipv6Header::from_slice(rest).map(|(ip, rest)| (Ip::Six(ip), rest)).ok()?
    };
    let (tcp, _) = TcpHeader::from_slice(rest).ok()?;
    Some((ethernet, ip, tcp))
}

/// Lengths and checksums are made to fit a segment without payload.
fn write(ethernet: &Ethernet2Header, mut ip: Ip, mut tcp: TcpHeader) -> Option<Vec<u8>> {
    let mut frame = ethernet.to_bytes().to_vec();
    match &mut ip {
        Ip::Four(ip) => {
            ip.set_payload_len(tcp.header_len()).ok()?;
            ip.header_checksum = ip.calc_header_checksum();
            tcp.checksum = tcp.calc_checksum_ipv4(ip, &[]).ok()?;
            frame.extend(ip.to_bytes());
        }
        Ip::Six(ip) => {
            ip.set_payload_length(tcp.header_len()).ok()?;
            tcp.checksum = tcp.calc_checksum_ipv6(ip, &[]).ok()?;
            frame.extend(ip.to_bytes());
        }
    }
    frame.extend(tcp.to_bytes());
    Some(frame)
}

/// The SYN as it goes over a wire: its checksum is complete, and a payload (TCP fast open), of which only the headers
/// were kept, is left to the client to send again.
pub(super) fn replay(syn: &[u8]) -> Option<Vec<u8>> {
    let (ethernet, ip, tcp) = read(syn)?;
    write(&ethernet, ip, tcp)
}

/// What the called host would say to this SYN if nobody listened there.
pub(super) fn refusal(syn: &[u8]) -> Option<Vec<u8>> {
    let (mut ethernet, mut ip, syn) = read(syn)?;
    std::mem::swap(&mut ethernet.source, &mut ethernet.destination);
    match &mut ip {
        Ip::Four(ip) => {
            std::mem::swap(&mut ip.source, &mut ip.destination);
            ip.time_to_live = 64;
        }
        Ip::Six(ip) => {
            std::mem::swap(&mut ip.source, &mut ip.destination);
            ip.hop_limit = 64;
        }
    }
    let mut tcp = TcpHeader::new(syn.destination_port, syn.source_port, 0, 0);
    tcp.rst = true;
    tcp.ack = true;
    tcp.acknowledgment_number = syn.sequence_number.wrapping_add(1);
    write(&ethernet, ip, tcp)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use etherparse::{PacketBuilder, TcpOptionElement};

    use super::*;

    fn syn(payload: &[u8]) -> Vec<u8> {
        let options = [TcpOptionElement::MaximumSegmentSize(1460), TcpOptionElement::Timestamp(7, 0)];
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 244, 0, 2], [10, 96, 0, 10], 64)
            .tcp(40_000, 80, 0xffff_ffff, 64_240)
            .syn()
            .options(&options)
            .unwrap();
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).unwrap();
        frame
    }

    #[test]
    fn the_same_but_for_a_partial_checksum() {
        let whole = syn(&[]);
        let mut partial = whole.clone();
        partial[14 + 20 + 16..][..2].copy_from_slice(&[0x12, 0x34]);
        assert_eq!(replay(&partial).unwrap(), whole);
    }

    #[test]
    fn a_payload_is_left_away() {
        let mut cut = syn(b"fast open");
        cut.truncate(cut.len() - 9);
        assert_eq!(replay(&cut).unwrap(), syn(&[]));
    }

    #[test]
    fn refused_as_by_the_called_host() {
        let frame = refusal(&syn(&[])).unwrap();
        let (ethernet, ip, tcp) = read(&frame).unwrap();
        let Ip::Four(ip) = ip else { unreachable!() };
        assert_eq!((ethernet.source, ethernet.destination), ([4; 6], [2; 6]));
        assert_eq!((ip.source, ip.destination), ([10, 96, 0, 10], [10, 244, 0, 2]));
        assert_eq!((tcp.source_port, tcp.destination_port), (80, 40_000));
        assert!(tcp.rst && tcp.ack && !tcp.syn && tcp.acknowledgment_number == 0);
        assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(&ip, &[]).unwrap());
    }

    #[test]
    fn what_is_no_syn_is_nothing() {
        let frame = syn(&[]);
        (0..frame.len()).for_each(|length| assert!(replay(&frame[..length]).is_none(), "{length}"));
    }
}
