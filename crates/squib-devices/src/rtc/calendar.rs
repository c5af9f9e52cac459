//! Dates of the Gregorian calendar to and from seconds.

/// The clock's registers as numbers. A guest may write any of them, so they need not be a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DateTime {
    pub(super) century: u8,
    pub(super) year_of_century: u8,
    /// 1–12.
    pub(super) month: u8,
    /// 1–31.
    pub(super) day: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
}

const SECONDS_PER_DAY: i64 = 86_400;
/// From 0000-03-01 to 1970-01-01.
const DAYS_TO_1970: i64 = 719_468;

/// Days from 1970-01-01 to a date. Years are counted from March, so that the leap day is the last of its
/// year.
fn days_from_date(year: i64, month: i64, day: i64) -> i64 {
    let (year, month_from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // March has 31 days, April 30, and so on: 153 days in each five months.
    let days_before_month = (153 * month_from_march + 2) / 5;
    365 * year + leap_days + days_before_month + day - 1 - DAYS_TO_1970
}

impl DateTime {
    /// The date `seconds` after 1970-01-01 00:00:00; years beyond 9999 show modulo 10000.
    pub(super) fn from_unix(seconds: i64) -> Self {
        let days = seconds.div_euclid(SECONDS_PER_DAY) + DAYS_TO_1970;
        let of_day = seconds.rem_euclid(SECONDS_PER_DAY);
        // 400 years have 146,097 days; each shorter cycle is a day short where the longer one ends.
        let (cycle, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_cycle = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = cycle * 400 + year_of_cycle + i64::from(month <= 2);
        Self {
            century: (year.rem_euclid(10_000) / 100) as u8,
            year_of_century: year.rem_euclid(100) as u8,
            month: month as u8,
            day: (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u8,
            hour: (of_day / 3600) as u8,
            minute: (of_day / 60 % 60) as u8,
            second: (of_day % 60) as u8,
        }
    }

    fn days(&self) -> i64 {
        let year = i64::from(self.century) * 100 + i64::from(self.year_of_century);
        days_from_date(year, i64::from(self.month.clamp(1, 12)), i64::from(self.day))
    }

    /// Seconds from 1970-01-01 00:00:00. Values beyond their range carry over into the next unit.
    pub(super) fn to_unix(self) -> i64 {
        let of_day = i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
        self.days() * SECONDS_PER_DAY + of_day
    }

    /// 1 is Sunday.
    pub(super) fn weekday(&self) -> u8 {
        // 1970-01-01 was a Thursday.
        ((self.days() + 4).rem_euclid(7) + 1) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(t: DateTime) -> String {
        let DateTime { century, year_of_century, month, day, hour, minute, second } = t;
        format!(
            "{century:02}{year_of_century:02}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} {}",
            t.weekday()
        )
    }

    #[test]
    fn known_dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 5"),
            (951_782_399, "2000-02-28 23:59:59 2"),
            (951_827_696, "2000-02-29 12:34:56 3"),
            (1_709_164_800, "2024-02-29 00:00:00 5"),
            (4_107_542_400, "2100-03-01 00:00:00 2"),
            (253_402_300_799, "9999-12-31 23:59:59 6"),
            (-1, "1969-12-31 23:59:59 4"),
        ] {
            assert_eq!(show(DateTime::from_unix(seconds)), text);
        }
    }

    #[test]
    fn every_day_of_eight_centuries_goes_there_and_back() {
        for day in -150_000..150_000 {
            let seconds = day * SECONDS_PER_DAY + 12_345;
            assert_eq!(DateTime::from_unix(seconds).to_unix(), seconds);
        }
    }

    #[test]
    fn what_is_no_date_carries_over() {
        let t =
            DateTime { century: 20, year_of_century: 23, month: 2, day: 31, hour: 24, minute: 0, second: 60 };
        assert_eq!(show(DateTime::from_unix(t.to_unix())), "2023-03-04 00:01:00 7");
        let wild = DateTime {
            century: 255,
            year_of_century: 255,
            month: 0,
            day: 0,
            hour: 255,
            minute: 255,
            second: 255,
        };
        let _ = wild.to_unix();
    }
}
