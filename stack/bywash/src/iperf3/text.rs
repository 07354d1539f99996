//! Lines in the stock program's form.

use super::report::{End, Interval, Role, SideTotal, Sum};

const SEPARATOR: &str = "- - - - - - - - - - - - - - - - - - - - - - - - -";

/// An amount of bytes in four places: `1.10 GBytes`.
pub(super) fn bytes(amount: f64) -> String {
    scaled(amount, 1024.0, "Bytes")
}

/// A rate in four places: `9.45 Gbits/sec`.
pub(super) fn bits_per_second(rate: f64) -> String {
    scaled(rate, 1000.0, "bits/sec")
}

fn scaled(mut amount: f64, step: f64, unit: &str) -> String {
    let mut prefix = "";
    for larger in ["K", "M", "G", "T"] {
        if amount < step {
            break;
        }
        amount /= step;
        prefix = larger;
    }
    // Precision so that rounding never adds a fifth place.
    let digits = match amount {
        a if a < 9.995 => 2,
        a if a < 99.95 => 1,
        _ => 0,
    };
    format!("{amount:4.digits$} {prefix}{unit}")
}

/// The lines of an interval; `first` brings the header.
pub(super) fn interval(interval: &Interval, role: Role, both_ways: bool, first: bool) -> String {
    let mut lines = Vec::new();
    let many = interval.streams.len() > 1;
    let sends = interval.streams.iter().any(|stream| stream.sender);
    if first {
        lines.push(header(both_ways, sends, true));
    } else if many {
        lines.push(SEPARATOR.to_owned());
    }
    for sender in directions(interval.streams.iter().map(|stream| stream.sender)) {
        let tag = tag(role, both_ways, sender);
        let of_side = || {
            interval
                .streams
                .iter()
                .filter(|stream| stream.sender == sender)
        };
        for stream in of_side() {
            let figures = match &stream.sender_figures {
                Some(figures) => {
                    format!(
                        "  {:>3}   {}       ",
                        figures.retransmits,
                        bytes(figures.snd_cwnd.into())
                    )
                }
                None => " ".repeat(18),
            };
            let name = format!("[{:>3}]{tag}", stream.socket);
            let note = if stream.omitted { "(omitted)" } else { "" };
            lines.push(line(
                &name,
                (stream.start, stream.end),
                (stream.bytes, stream.bits_per_second),
                &figures,
                note,
            ));
        }
        if of_side().count() > 1 {
            let sum = match &interval.sum_bidir_reverse {
                Some(reverse) if reverse.sender == sender => reverse,
                _ => &interval.sum,
            };
            let note = if sum.omitted == Some(true) {
                "(omitted)"
            } else {
                ""
            };
            lines.push(sum_line(&tag, sum, note));
        }
    }
    lines.join("\n")
}

/// The lines of a whole test: a client shows both sides, a server its own.
pub(super) fn end(end: &End, role: Role, both_ways: bool) -> String {
    let counted = end.sum_sent.retransmits.is_some() || both_ways;
    let sends = end.streams.iter().any(|stream| stream.sender.sender);
    let mut lines = vec![
        SEPARATOR.to_owned(),
        header(both_ways, counted && (role == Role::Client || sends), false),
    ];
    for sender in directions(end.streams.iter().map(|stream| stream.sender.sender)) {
        let tag = tag(role, both_ways, sender);
        let of_side = || {
            end.streams
                .iter()
                .filter(|stream| stream.sender.sender == sender)
        };
        let (shows_sender, shows_receiver) = (
            role == Role::Client || sender,
            role == Role::Client || !sender,
        );
        for stream in of_side() {
            if shows_sender {
                lines.push(total_line(&tag, &stream.sender, "sender"));
            }
            if shows_receiver {
                lines.push(total_line(&tag, &stream.receiver, "receiver"));
            }
        }
        if of_side().count() > 1 {
            let sums = match (&end.sum_sent_bidir_reverse, &end.sum_received_bidir_reverse) {
                (Some(sent), Some(received)) if sent.sender == sender => (sent, received),
                _ => (&end.sum_sent, &end.sum_received),
            };
            if shows_sender {
                lines.push(sum_line(&tag, sums.0, "sender"));
            }
            if shows_receiver {
                lines.push(sum_line(&tag, sums.1, "receiver"));
            }
        }
    }
    lines.join("\n")
}

/// The directions that occur, that of the first stream first.
fn directions(mut senders: impl Iterator<Item = bool>) -> Vec<bool> {
    let Some(first) = senders.next() else {
        return Vec::new();
    };
    let mut directions = vec![first];
    if senders.any(|sender| sender != first) {
        directions.push(!first);
    }
    directions
}

fn header(both_ways: bool, retransmits: bool, windows: bool) -> String {
    let id = if both_ways { "[ ID][Role]" } else { "[ ID]" };
    let counted = match (retransmits, windows) {
        (false, _) => "",
        (true, false) => "         Retr",
        (true, true) => "         Retr  Cwnd",
    };
    format!("{id} Interval           Transfer     Bitrate{counted}")
}

/// Who sends on a stream, shown only where both do.
fn tag(role: Role, both_ways: bool, sender: bool) -> String {
    let side = if role == Role::Client { "C" } else { "S" };
    match (both_ways, sender) {
        (false, _) => String::new(),
        (true, true) => format!("[TX-{side}]"),
        (true, false) => format!("[RX-{side}]"),
    }
}

fn line(
    name: &str,
    (start, end): (f64, f64),
    (amount, rate): (u64, f64),
    figures: &str,
    note: &str,
) -> String {
    let (amount, rate) = (bytes(amount as f64), bits_per_second(rate));
    format!("{name} {start:6.2}-{end:<6.2} sec  {amount}  {rate}{figures}{note}")
}

fn sum_line(tag: &str, sum: &Sum, note: &str) -> String {
    let counted = retransmits(sum.retransmits);
    line(
        &format!("[SUM]{tag}"),
        (sum.start, sum.end),
        (sum.bytes, sum.bits_per_second),
        &counted,
        note,
    )
}

fn total_line(tag: &str, total: &SideTotal, note: &str) -> String {
    let counted = retransmits(total.extremes.as_ref().map(|extremes| extremes.retransmits));
    let name = format!("[{:>3}]{tag}", total.socket);
    line(
        &name,
        (total.start, total.end),
        (total.bytes, total.bits_per_second),
        &counted,
        note,
    )
}

fn retransmits(count: Option<u64>) -> String {
    count.map_or_else(
        || " ".repeat(18),
        |count| format!("  {count:>3}             "),
    )
}

/// Seconds since 1970 as in HTTP: `Fri, 20 Nov 2026 10:30:56 GMT`.
pub(super) fn http_date(since_epoch: u64) -> String {
    let (days, clock) = (since_epoch / 86_400, since_epoch % 86_400);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(days % 7) as usize];
    let (mut year, mut day) = (1970, days);
    let length = |year: u64| if is_leap(year) { 366 } else { 365 };
    while day >= length(year) {
        day -= length(year);
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let months = [
        ("Jan", 31),
        ("Feb", february),
        ("Mar", 31),
        ("Apr", 30),
        ("May", 31),
        ("Jun", 30),
        ("Jul", 31),
        ("Aug", 31),
        ("Sep", 30),
        ("Oct", 31),
        ("Nov", 30),
        ("Dec", 31),
    ];
    let mut name = "Dec";
    for (month, days) in months {
        name = month;
        if day < days {
            break;
        }
        day -= days;
    }
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    format!(
        "{weekday}, {:02} {name} {year} {hour:02}:{minute:02}:{second:02} GMT",
        day + 1
    )
}

fn is_leap(year: u64) -> bool {
    (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iperf3::meter::{Meter, Sample};
    use bywash_engine::service::Time;

    #[test]
    fn four_places_whatever_the_size() {
        let cases = [
            (0.0, "0.00 Bytes"),
            (131_072.0, " 128 KBytes"),
            (1_181_116_006.0, "1.10 GBytes"),
            (1_023.0 * 1024.0, "1023 KBytes"),
            (9.996 * 1024.0, "10.0 KBytes"),
        ];
        for (amount, text) in cases {
            assert_eq!(bytes(amount), text);
        }
        assert_eq!(bits_per_second(9.45e9), "9.45 Gbits/sec");
        assert_eq!(bits_per_second(999.6e6), "1000 Mbits/sec");
        assert_eq!(bits_per_second(0.0), "0.00 bits/sec");
    }

    #[test]
    fn lines_look_like_the_stock_program_s() {
        let second = Time::from_nanos(1_000_000_000);
        let received = Sample {
            bytes: 1_181_116_006,
            ..Sample::default()
        };
        let mut meter = Meter::new(Time::from_nanos(0), false, [false]);
        let lines = interval(
            &meter.interval(second, &[received]),
            Role::Server,
            false,
            true,
        );
        let expected = "[ ID] Interval           Transfer     Bitrate\n\
                        [  5]   0.00-1.00   sec  1.10 GBytes  9.45 Gbits/sec                  ";
        assert_eq!(lines, expected);

        let sent = Sample {
            bytes: 3_726_802_944,
            retransmits: 19,
            cwnd: 916_480,
            ..Sample::default()
        };
        let mut meter = Meter::new(Time::from_nanos(0), false, [true]);
        let lines = interval(&meter.interval(second, &[sent]), Role::Server, false, false);
        assert_eq!(
            lines,
            "[  5]   0.00-1.00   sec  3.47 GBytes  29.8 Gbits/sec   19    895 KBytes       "
        );
    }

    #[test]
    fn several_streams_have_a_sum_and_both_directions_a_role() {
        let second = Time::from_nanos(1_000_000_000);
        let sample = Sample {
            bytes: 1 << 20,
            ..Sample::default()
        };
        let mut meter = Meter::new(Time::from_nanos(0), true, [true, true, false]);
        let lines = interval(
            &meter.interval(second, &[sample; 3]),
            Role::Client,
            true,
            false,
        );
        let names: Vec<&str> = lines
            .lines()
            .map(|line| line.get(..11).unwrap_or(line))
            .collect();
        assert_eq!(
            names[1..],
            ["[  5][TX-C]", "[  7][TX-C]", "[SUM][TX-C]", "[  9][RX-C]"]
        );
        assert_eq!(lines.matches("(omitted)").count(), 4);
    }

    #[test]
    fn dates_are_right_across_leap_years() {
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(http_date(1_795_170_656), "Fri, 20 Nov 2026 10:30:56 GMT");
        assert_eq!(http_date(1_798_761_599), "Thu, 31 Dec 2026 23:59:59 GMT");
    }
}
