"""Names of regions that users type: codes, synonyms, provinces and cloud regions, each with its expected row."""

from __future__ import annotations

import pytest

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.base.tables import read_table
from joulecast.estimator.place.site import find_region, load_regions, make_site

SAME = {
    "USA": "US", "DEU": "DE", "gbr": "GB", "UK": "GB", "England": "GB", "Great Britain": "GB", "fra": "FR",
    "JPN": "JP", "CHN": "CN", "IND": "IN", "BRA": "BR", "CAN": "CA", "SGP": "SG", "TWN": "TW", "CZE": "CZ",
    "United States of America": "US", "U.S.A.": "US", "Korea": "KR", "Republic of Korea": "KR",
    "Czech Republic": "CZ", "Russian Federation": "RU", "Türkiye": "TR", "Viet Nam": "VN", "UAE": "AE",
    "Holland": "NL", "Ivory Coast": "CI", "Côte d'Ivoire": "CI", "Deutschland": "DE", "Hong Kong": "HK",
    "CA-QC": "CA-QC", "Québec": "CA-QC", "quebec": "CA-QC", "Ontario": "CA-ON", "Alberta": "CA-AB",
    "British Columbia": "CA-BC", "California": "US-CA", "us_ca": "US-CA", "US CA": "US-CA", "us/tx": "US-TX",
    "California, USA": "US-CA", "Georgia, US": "US-GA", "Georgia (US)": "US-GA", "New York": "US-NY",
    "Ontario, Canada": "CA-ON", "Texas": "US-TX", "gcp us-central1": "gcp:us-central1", "London": "gcp:europe-west2",
    "us-central1-a": "gcp:us-central1", "Google europe-west9": "gcp:europe-west9", "worldwide": "WORLD",
    "TX": "US-TX", "NY": "US-NY", "QC": "CA-QC", "ON": "CA-ON", "CA": "CA", "DE": "DE", "Yukon": "CA-YT",
    "US-TX-3": "US-TX", "RunPod US-KS-2": "US-KS", "EU-SE-1": "SE", "EUR-IS-1": "IS", "EU-RO-1": "RO",
    "EU": "EU", "European Union": "EU", "Europe": "EUROPE", "europe-north2": "gcp:europe-north2",
}  # fmt: skip

INSIDE = {
    "aws:us-east-1": "US-VA", "us-east-1": "US-VA", "us-east-1a": "US-VA", "AWS us-west-2": "US-OR",
    "aws/eu-west-1": "IE", "eu-central-1": "DE", "ca-central-1": "CA-QC", "ap-south-1": "IN", "sa-east-1": "BR",
    "azure:eastus": "US-VA", "East US": "US-VA", "Azure West US 2": "US-WA", "West Europe": "NL", "uksouth": "GB",
    "Sweden Central": "SE", "southeastasia": "SG", "azure:norwayeast": "NO", "canadacentral": "CA-ON",
    "AU-NSW": "AU", "New South Wales": "AU", "DE-BY": "DE", "Bavaria": "DE", "IN-MH": "IN", "cn-gd": "CN",
    "IT-25": "IT", "us-ashburn-1": "US-VA", "uk-london-1": "GB", "Oracle eu-frankfurt-1": "DE", "fr-par-1": "FR",
    "scaleway pl-waw": "PL", "hetzner fsn1": "DE", "ovh gra": "FR", "cn-hangzhou": "CN", "CA-MTL-1": "CA-QC",
    "Dublin": "IE", "Chicago": "US-IL", "Silicon Valley": "US-CA", "Northern Virginia": "US-VA", "Oslo": "NO",
    "eusc-de-east-1": "DE",
}  # fmt: skip


@pytest.mark.parametrize(("name", "code"), SAME.items())
def test_another_name_is_the_same_region(name: str, code: str) -> None:
    region = find_region(name)
    assert region.code == code
    assert region in load_regions()


@pytest.mark.parametrize(("name", "code"), INSIDE.items())
def test_a_place_has_the_figure_of_its_region_and_says_so(name: str, code: str) -> None:
    region, around = find_region(name), find_region(code)
    assert region.carbon_g_per_kwh == around.carbon_g_per_kwh
    assert region.iso3 == around.iso3
    assert region.source.endswith(f"the figure of {around.name} ({code})")
    assert make_site(region=name).carbon_g_per_kwh == around.carbon_g_per_kwh


def test_us_east_1_is_awss_and_us_east1_is_googles() -> None:
    assert find_region("us-east-1").code == "aws:us-east-1"
    assert find_region("us-east1").code == "gcp:us-east1"


def test_every_row_points_at_a_region_and_has_a_source_for_its_place() -> None:
    codes = {region.code for region in load_regions()}
    for row in read_table("region_names.csv"):
        assert row["region"] in codes, row
        assert not row["place"] or row["source"], row
        assert find_region(row["name"]).carbon_g_per_kwh == find_region(row["region"]).carbon_g_per_kwh, row


def test_every_countrys_alpha_3_code_is_found() -> None:
    for region in load_regions():
        if region.kind == "country" and len(region.code) == 2:
            assert find_region(region.iso3).code == region.code


@pytest.mark.parametrize("name", ["nonsense", "ZZ", "XX-YY", "aws:us-east-99", "azure:", "", "-", "ünï"])
def test_what_nobody_means_is_one_line(name: str) -> None:
    with pytest.raises(JoulecastError, match="unknown region") as caught:
        find_region(name)
    assert "\n" not in str(caught.value)


def test_a_name_of_a_country_and_a_state_stays_a_question() -> None:
    with pytest.raises(JoulecastError, match=r"names several regions: give GE or US-GA"):
        find_region("Georgia")
