from dira_scale.predict import main

if __name__ == "__main__":
    raise SystemExit(main())
