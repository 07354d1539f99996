//! Without SACK: duplicate ACKs are counted, and a hole is known only by its beginning (RFC 5681 3.2, RFC 6582).

use super::reordering::DUPLICATE_THRESHOLD;
use super::trouble::count;
use super::{AckContext, LossDetection, Phase};
use crate::payload::Payload;
use crate::snd::{Acked, SendQueue};

impl LossDetection {
    /// Marks the oldest segment if duplicates or a partial acknowledgment say so. Bytes that the ACK says have arrived.
    pub(super) fn count_duplicates<P: Payload>(
        &mut self,
        snd: &mut SendQueue<P>,
        acked: &Acked,
        context: &AckContext,
    ) -> u32 {
        let whole = snd.una.at_or_after(self.recover);
        if acked.seq_len > 0 {
            self.trouble().duplicates = 0;
            // RFC 6582 3.2, step 3: the acknowledgment stops at the next hole.
            if self.phase == Phase::Recovery && !whole {
                // One segment filled the hole, the rest had arrived unnamed.
                let named = acked.seq_len.saturating_sub(context.mss);
                let before = snd.unnamed();
                snd.forget_unnamed(named);
                self.mark_oldest(snd);
                return acked.seq_len.saturating_sub(before - snd.unnamed());
            }
            let before = snd.unnamed();
            snd.forget_unnamed(u32::MAX);
            return acked.seq_len.saturating_sub(before);
        }
        if !context.duplicate || self.phase == Phase::Loss {
            return 0;
        }
        let before = snd.unnamed();
        snd.note_unnamed(context.mss);
        let trouble = self.trouble();
        trouble.duplicates = trouble.duplicates.saturating_add(1);
        let enough = trouble.duplicates == DUPLICATE_THRESHOLD;
        // RFC 6582 3.2, step 2: not for duplicates that our own retransmissions brought about.
        if enough && self.phase == Phase::Open && snd.una.after(self.recover) {
            self.mark_oldest(snd);
        }
        snd.unnamed() - before
    }

    fn mark_oldest<P: Payload>(&mut self, snd: &mut SendQueue<P>) {
        let lost = u32::from(snd.mark_lost(0));
        count(&mut self.trouble().counts.lost, lost);
    }
}

#[cfg(test)]
mod tests {
    use bywash_wire::SeqNumber;

    use super::*;

    #[test]
    fn the_mark_of_the_last_recovery_moves_along() {
        let iss = SeqNumber::new(7);
        let mut loss = LossDetection::new(iss);
        for gigabytes in 1..10 {
            let una = iss + (gigabytes << 30);
            loss.on_una(una);
            assert!(una.after(loss.recover), "{gigabytes} GiB on");
        }
    }
}
