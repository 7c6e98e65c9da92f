//! `instruments`: reference data.

use domain::decimal::{MONEY, Num, WHOLE};
use domain::ids;
use domain::instrument::{CURRENCY, Instrument, Listing};

use super::input::{Fault, FieldValue, read_map};
use super::topics::INPUT_BYTES_MAX;

/// Maximum of collar, half spread and fee, in basis points: the whole price.
const BPS_MAX: i64 = 10_000;
/// Maximum of bands and short margin, in basis points.
const BAND_BPS_MAX: i64 = 1_000_000;

/// Decodes a record of `instruments`. `None`: a null value has delisted the symbol. An error: the
/// record changes nothing.
pub fn decode(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Option<Instrument>, Fault> {
    let key = key
        .and_then(|k| std::str::from_utf8(k).ok())
        .filter(|k| ids::valid(k))
        .ok_or("the key is not a valid symbol")?;
    let Some(value) = value else { return Ok(None) };
    if value.len() > INPUT_BYTES_MAX {
        return Err("the value is larger than 64 KiB");
    }

    let mut i = Instrument::default();
    let mut symbol = None;
    let mut wrong = None;
    let fault = read_map(value, |name, v| {
        if v == FieldValue::Null {
            return;
        }

        let ok = match name {
            "symbol" => {
                symbol = v.text();
                Some(())
            }
            "name" => v.text().map(drop),
            "status" => v
                .text()
                .and_then(|t| Listing::from_name(&t))
                .map(|s| i.status = s),
            "tick" => whole(&v, MONEY, 1, i64::MAX).map(|n| i.tick_e4 = n),
            "lot" => whole(&v, WHOLE, 1, i64::MAX).map(|n| i.lot = n),
            "max_quantity" => whole(&v, WHOLE, 1, i64::MAX).map(|n| i.max_quantity = Some(n)),
            "clip_size" => whole(&v, WHOLE, 1, i64::MAX).map(|n| i.clip_size = Some(n)),
            "max_notional" => whole(&v, MONEY, 1, i64::MAX).map(|n| i.max_notional_e4 = Some(n)),
            "collar_bps" => whole(&v, WHOLE, 0, BPS_MAX).map(|n| i.collar_bps = n),
            "limit_band_bps" => {
                whole(&v, WHOLE, 0, BAND_BPS_MAX).map(|n| i.limit_band_bps = (n > 0).then_some(n))
            }
            "band_bps" => {
                whole(&v, WHOLE, 0, BAND_BPS_MAX).map(|n| i.band_bps = (n > 0).then_some(n))
            }
            "half_spread_bps" => whole(&v, WHOLE, 0, BPS_MAX).map(|n| i.half_spread_bps = n),
            "fee_bps" => whole(&v, WHOLE, 0, BPS_MAX).map(|n| i.fee_bps = n),
            "short_margin_bps" => whole(&v, WHOLE, 0, BAND_BPS_MAX).map(|n| i.short_margin_bps = n),
            "short_ok" => flag(&v).map(|b| i.short_ok = b),
            "house_max" => whole(&v, WHOLE, 1, i64::MAX).map(|n| i.house_max = Some(n)),
            "house" => flag(&v).map(|b| i.house = b),
            "test_issue" => flag(&v).map(|b| i.test_issue = b),
            "currency" => v
                .text()
                .filter(|t| ids::valid(t))
                .map(|t| i.account_currency = t == CURRENCY),
            _ => Some(()),
        };

        if ok.is_none() {
            wrong.get_or_insert("a field has a value that it cannot have");
        }
    })?;

    if let Some(fault) = fault.or(wrong) {
        return Err(fault);
    }

    match symbol {
        Some(s) if s == key => Ok(Some(i)),
        Some(_) => Err("symbol is not the record's key"),
        None => Err("symbol is missing or not text"),
    }
}

fn whole(v: &FieldValue<'_>, scale: u32, min: i64, max: i64) -> Option<i64> {
    match v.num(scale)? {
        Num::Exact(n) if (min..=max).contains(&n) => Some(n),
        _ => None,
    }
}

fn flag(v: &FieldValue<'_>) -> Option<bool> {
    match v {
        FieldValue::Bool(b) => Some(*b),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Option<Instrument>, Fault> {
        decode(Some(b"AAPL"), Some(json.as_bytes()))
    }

    #[test]
    fn a_symbol_alone_lists_a_stock() {
        assert_eq!(
            read(r#"{"symbol":"AAPL"}"#),
            Ok(Some(Instrument::default()))
        );
        assert_eq!(
            read(r#"{"symbol":"AAPL","band_bps":null,"name":"Apple","more":1}"#),
            Ok(Some(Instrument::default()))
        );
        assert_eq!(decode(Some(b"AAPL"), None), Ok(None));
    }

    #[test]
    fn all_fields() {
        let json = r#"{"symbol":"AAPL","name":"x","status":"halted","tick":"0.05","lot":10,"max_quantity":100,"clip_size":50,"max_notional":"5.5","collar_bps":1,"limit_band_bps":8,
            "band_bps":2,"short_ok":true,"short_margin_bps":9,"half_spread_bps":3,"fee_bps":4,"house":false,"house_max":7,"currency":"EUR","test_issue":true}"#;
        let want = Instrument {
            status: Listing::Halted,
            tick_e4: 500,
            lot: 10,
            max_quantity: Some(100),
            clip_size: Some(50),
            max_notional_e4: Some(55_000),
            collar_bps: 1,
            limit_band_bps: Some(8),
            band_bps: Some(2),
            short_ok: true,
            short_margin_bps: 9,
            half_spread_bps: 3,
            fee_bps: 4,
            house: false,
            house_max: Some(7),
            account_currency: false,
            test_issue: true,
        };

        assert_eq!(read(json), Ok(Some(want)));
    }

    #[test]
    fn bad_records_are_bad() {
        for bad in [
            "",
            "x",
            "{}",
            r#"{"symbol":"MSFT"}"#,
            r#"{"symbol":1}"#,
            r#"{"symbol":"AAPL","symbol":"AAPL"}"#,
            r#"{"symbol":"AAPL","status":"open"}"#,
            r#"{"symbol":"AAPL","tick":0}"#,
            r#"{"symbol":"AAPL","tick":"x"}"#,
            r#"{"symbol":"AAPL","lot":1.5}"#,
            r#"{"symbol":"AAPL","collar_bps":-1}"#,
            r#"{"symbol":"AAPL","house":1}"#,
            r#"{"symbol":"AAPL","currency":""}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }

        assert!(decode(None, Some(br#"{"symbol":"AAPL"}"#)).is_err());
        assert!(decode(Some(b"a b"), None).is_err());
    }
}
