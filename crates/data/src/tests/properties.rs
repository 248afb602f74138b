use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;

const TABLE: &str = "size,colour,y\n1.5,red,0\n-2,\"blue\",1\n3e2,red,1\n0.25,green,0\n7,blue,1\n";

/// Every way in which a file of these bytes can be read ends well, or with an error that says where.
fn read_all_ways(bytes: &[u8]) {
    let folder = Folder::new();
    let mut data = folder.data(TABLE);
    data.categorical = strings(&["colour"]);
    let known = read_training(&data, &cross_entropy(), 0).unwrap().schema;

    let path = folder.file("train.csv", bytes);
    let place = ("file".into(), path.display().to_string());
    let check = |read: Result<Vec<Dataset>>| match read {
        Ok(sets) => {
            let values: usize = sets.iter().map(|set| set.x.len()).sum();
            assert!(values <= bytes.len().pow(2), "{values} values of {} bytes", bytes.len());
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(error.advice().is_some(), "{error}");
            assert!(error.context().contains(&place), "{}", error.report());
        }
    };
    check(read_labelled(&path, None, &known).map(|set| vec![set]));
    check(read_features(&path, &known).map(|set| vec![set]));
    for (loss, fraction) in [(cross_entropy(), Some(0.3)), (bce(), None), (Loss::Mse, Some(0.01))] {
        data.validation = fraction.map(Validation::Fraction);
        data.normalize = Normalize::Standard;
        for categorical in [&["colour"][..], &[]] {
            data.categorical = strings(categorical);
            check(read_training(&data, &loss, 1).map(|t| [t.train].into_iter().chain(t.validation).collect()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..300)) {
        read_all_ways(&bytes);
    }

    #[test]
    fn any_table_of_odd_cells_is_read_or_refused(
        cells in vec(vec(prop_oneof![Just("1"), Just("-0"), Just("1e39"), Just("nan"), Just("inf"), Just(""), Just("\""),
            Just("é"), Just("a,b"), Just("3.4e38"), Just("1e-320"), Just("2")], 1..4), 0..8),
    ) {
        let rows: String = cells.into_iter().map(|row| row.join(",") + "\n").collect();
        read_all_ways(format!("size,colour,y\n{rows}").as_bytes());
        read_all_ways(format!("y\n{rows}").as_bytes());
    }

    #[test]
    fn a_damaged_file_is_read_or_refused(damage in vec((any::<Index>(), 0..4, any::<u8>()), 1..6)) {
        let mut bytes = TABLE.as_bytes().to_vec();
        for (at, how, byte) in damage {
            let at = at.index(bytes.len().max(1));
            match how {
                0 if at < bytes.len() => bytes[at] = byte,
                1 if at < bytes.len() => drop(bytes.remove(at)),
                2 => bytes.insert(at, b",\"\n\r;\t.0"[usize::from(byte) % 8]),
                _ => bytes.insert(at, byte),
            }
        }
        read_all_ways(&bytes);
    }

    #[test]
    fn numbers_come_back_scaled(rows in vec(vec(-1e6..1e6f64, 3), 2..20), seed: u64, standard: bool) {
        let folder = Folder::new();
        let text: String = rows.iter().map(|row| format!("{},{},{}\n", row[0], row[1], row[2])).collect();
        let mut data = folder.data(format!("a,b,y\n{text}"));
        data.normalize = if standard { Normalize::Standard } else { Normalize::MinMax };
        data.validation = Some(Validation::Fraction(0.25));
        let Training { schema, train, validation } = read_training(&data, &Loss::Mse, seed).unwrap();
        let held_out = random::validation_rows(seed, rows.len(), 0.25);
        let is_held_out = |i: &usize| held_out.contains(&(*i as u32));
        let expected = |kept: &dyn Fn(&usize) -> bool| {
            let mut x = Vec::new();
            for i in (0..rows.len()).filter(|i| kept(i)) {
                for (feature, cell) in schema.features.iter().zip(&rows[i]) {
                    let Feature::Numeric { offset, scale, .. } = feature else { panic!("{feature:?}") };
                    x.push(((cell - offset) / scale) as f32);
                }
            }
            x
        };
        prop_assert_eq!(train.x, expected(&|i| !is_held_out(i)));
        let validation = validation.unwrap();
        prop_assert_eq!(validation.x, expected(&is_held_out));
        let y: Vec<f32> = (0..rows.len()).filter(is_held_out).map(|i| rows[i][2] as f32).collect();
        prop_assert_eq!(validation.y, values(&y));
    }
}
